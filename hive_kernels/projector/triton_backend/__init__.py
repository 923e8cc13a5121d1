"""The residual projector by cuBLAS and our Triton kernels, behind operators in ``hive_kernels``.

The modules of this folder import Triton, so they are imported when a kernel is first launched. passes.py computes the
forward and backward passes with elementwise.py (LayerNorm, GELU) and gemm.py (fused products), which have the kernels.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hive_kernels import launch
from hive_kernels.compile_case import CompileCase
from hive_kernels.projector import ops
from hive_kernels.projector.parameters import Parameters

ops.define(launch.LIBRARY)


def residual_projector(
    x: Tensor, parameters: Parameters, eps: float, gemm_dtype: torch.dtype, recompute: bool
) -> Tensor:
    """As reference.residual_projector."""
    return ops.residual_projector(launch.LIBRARY.ns, x, parameters, eps, gemm_dtype, recompute)


def compile_cases(capability: int) -> Iterator[CompileCase]:
    """Every launch on GPUs of ``capability``, as 86."""
    from hive_kernels.projector.triton_backend import elementwise, gemm

    yield from elementwise.compile_cases(capability)
    yield from gemm.compile_cases(capability)


def _forward(*inputs: Any) -> tuple[Tensor, Tensor]:
    from hive_kernels.projector.triton_backend import passes

    return passes.forward(*inputs)


def _backward(*inputs: Any) -> list[Tensor]:
    from hive_kernels.projector.triton_backend import passes

    return passes.backward(*inputs)


launch.implement("residual_projector", _forward)
launch.implement("residual_projector_backward", _backward)
