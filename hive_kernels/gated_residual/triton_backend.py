"""One launch forward, two backward, behind the operators ``hive_kernels::gated_residual`` and its backward."""

import torch
from torch import Tensor

from hive_kernels import launch
from hive_kernels.gated_residual import operators

_LIBRARY = torch.library.Library("hive_kernels", "FRAGMENT")
operators.define(_LIBRARY)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x, y of one shape, gate of one element -> x's shape and dtype."""
    return operators.gated_residual("hive_kernels", x, y, gate)


def _forward(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    from hive_kernels.gated_residual import triton_kernels

    if x.numel() == 0:
        return operators.forward_fake(x, y, gate)
    with launch.ready("gated_residual", x.device, x.dtype, y.dtype, gate.dtype):
        return triton_kernels.forward(x.contiguous(), y.contiguous(), gate)


def _backward(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    from hive_kernels.gated_residual import triton_kernels

    if y.numel() == 0:
        return torch.empty_like(y), torch.zeros_like(gate)
    with launch.ready("gated_residual_backward", y.device, grad.dtype, y.dtype, gate.dtype):
        return triton_kernels.backward(grad.contiguous(), y.contiguous(), gate)


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("gated_residual", _forward, _device)
    _LIBRARY.impl("gated_residual_backward", _backward, _device)
