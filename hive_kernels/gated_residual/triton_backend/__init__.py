"""The gated residual by our Triton kernels, behind operators in ``hive_kernels``: one launch forward, two backward.

kernels.py imports Triton, so it is imported when a kernel is first launched.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hive_kernels import launch
from hive_kernels.compile_case import CompileCase
from hive_kernels.gated_residual import ops

ops.define(launch.LIBRARY)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """As reference.gated_residual."""
    return ops.gated_residual(launch.LIBRARY.ns, x, y, gate)


def compile_cases(capability: int) -> Iterator[CompileCase]:
    """Every launch on GPUs of ``capability``, as 86."""
    from hive_kernels.gated_residual.triton_backend import kernels

    yield from kernels.compile_cases(capability)


def _forward(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    from hive_kernels.gated_residual.triton_backend import kernels

    if x.numel() == 0:
        return ops.forward_fake(x, y, gate)
    with launch.ready("gated_residual", x.device, x.dtype, y.dtype, gate.dtype):
        return kernels.forward(x.contiguous(), y.contiguous(), gate)


def _backward(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    from hive_kernels.gated_residual.triton_backend import kernels

    if y.numel() == 0:
        return torch.empty_like(y), torch.zeros_like(gate)
    with launch.ready("gated_residual_backward", y.device, grad.dtype, y.dtype, gate.dtype):
        return kernels.backward(grad.contiguous(), y.contiguous(), gate)


launch.implement("gated_residual", _forward)
launch.implement("gated_residual_backward", _backward)
