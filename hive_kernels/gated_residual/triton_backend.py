"""One launch forward, two backward, behind two operators; keeps y and the gate."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hive_kernels import launch

_LIBRARY = torch.library.Library("hive_kernels", "FRAGMENT")
_LIBRARY.define("gated_residual(Tensor x, Tensor y, Tensor gate) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_LIBRARY.define(
    "gated_residual_backward(Tensor grad, Tensor y, Tensor gate) -> (Tensor grad_y, Tensor grad_gate)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x, y of one shape, gate of one element -> x's shape and dtype."""
    return _GatedResidual.apply(x, y, gate)


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(y, gate)
        return torch.ops.hive_kernels.gated_residual(x, y, gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, gate = ctx.saved_tensors
        if not any(ctx.needs_input_grad[1:]):
            return grads[0], None, None
        return grads[0], *torch.ops.hive_kernels.gated_residual_backward(grads[0], y, gate)


def _forward(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    from hive_kernels.gated_residual import triton_kernels

    if x.numel() == 0:
        return _forward_fake(x, y, gate)
    with launch.ready("gated_residual", x.device, x.dtype, y.dtype, gate.dtype):
        return triton_kernels.forward(x.contiguous(), y.contiguous(), gate)


def _backward(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    from hive_kernels.gated_residual import triton_kernels

    if y.numel() == 0:
        return torch.empty_like(y), torch.zeros_like(gate)
    with launch.ready("gated_residual_backward", y.device, grad.dtype, y.dtype, gate.dtype):
        return triton_kernels.backward(grad.contiguous(), y.contiguous(), gate)


def _forward_fake(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _backward_fake(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), gate.new_empty(gate.shape)


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("gated_residual", _forward, _device)
    _LIBRARY.impl("gated_residual_backward", _backward, _device)
torch.library.register_fake("hive_kernels::gated_residual", _forward_fake, lib=_LIBRARY)
torch.library.register_fake("hive_kernels::gated_residual_backward", _backward_fake, lib=_LIBRARY)
