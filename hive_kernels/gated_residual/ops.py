"""The two operators of a fused backend, forward and backward, and their autograd, which keeps y and the gate.

``hive_kernels::gated_residual`` runs our Triton kernels, ``hive_kernels_cuda::gated_residual`` those in CUDA C++.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def define(library: torch.library.Library) -> None:
    """Defines both operators in the library's namespace: schemas, and results without values."""
    tags = (torch.Tag.pt2_compliant_tag,)
    library.define("gated_residual(Tensor x, Tensor y, Tensor gate) -> Tensor", tags=tags)
    library.define(
        "gated_residual_backward(Tensor grad, Tensor y, Tensor gate) -> (Tensor grad_y, Tensor grad_gate)", tags=tags
    )
    torch.library.register_fake(f"{library.ns}::gated_residual", forward_fake, lib=library)
    torch.library.register_fake(f"{library.ns}::gated_residual_backward", _backward_fake, lib=library)


def gated_residual(namespace: str, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x, y of one shape, gate of one element -> x's shape and dtype."""
    return _GatedResidual.apply(namespace, x, y, gate)


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, namespace: str, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(y, gate)
        ctx.namespace = namespace
        return getattr(torch.ops, namespace).gated_residual.default(x, y, gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, gate = ctx.saved_tensors
        if not any(ctx.needs_input_grad[2:]):
            return None, grads[0], None, None
        return None, grads[0], *getattr(torch.ops, ctx.namespace).gated_residual_backward.default(grads[0], y, gate)


def forward_fake(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """The result without its values."""
    return x.new_empty(x.shape)


def _backward_fake(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), gate.new_empty(gate.shape)
