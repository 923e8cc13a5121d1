"""The operators of a fused projector, forward and backward, which torch.compile doesn't look into, and their autograd.

x, the parameters and, unless ``recompute``, the hidden product h are kept for backward.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from hive_kernels.projector.parameters import Parameters

_OPTIONAL = ("w_skip", "b_skip")
_PARAMETERS = ", ".join(f"Tensor{'?' if name in _OPTIONAL else ''} {name}" for name in Parameters._fields)
_INPUTS = f"{_PARAMETERS}, float eps, ScalarType dtype"


def define(library: torch.library.Library) -> None:
    """Defines both operators in the library's namespace: schemas, results without values, and FLOPs."""
    tags = (torch.Tag.pt2_compliant_tag,)
    library.define(f"residual_projector(Tensor x, {_INPUTS}) -> (Tensor out, Tensor h)", tags=tags)
    library.define(
        f"residual_projector_backward(Tensor grad, Tensor x, Tensor? h, {_INPUTS}, bool need_x, bool need_parameters) "
        "-> Tensor[]",
        tags=tags,
    )
    torch.library.register_fake(f"{library.ns}::residual_projector", forward_fake, lib=library)
    torch.library.register_fake(f"{library.ns}::residual_projector_backward", backward_fake, lib=library)
    namespace = getattr(torch.ops, library.ns)
    register_flop_formula(namespace.residual_projector)(_forward_flops)
    register_flop_formula(namespace.residual_projector_backward)(_backward_flops)


def residual_projector(
    namespace: str, x: Tensor, parameters: Parameters, eps: float, gemm_dtype: torch.dtype, recompute: bool
) -> Tensor:
    """As reference.residual_projector, by the operators of ``namespace``."""
    return _Projector.apply(namespace, x, *parameters, eps, gemm_dtype, recompute)


class _Projector(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, namespace: str, x: Tensor, *rest: Any) -> Tensor:
        *parameters, eps, dtype, recompute = rest
        out, h = getattr(torch.ops, namespace).residual_projector.default(x, *parameters, eps, dtype)
        ctx.save_for_backward(x, None if recompute else h, *parameters)
        ctx.namespace, ctx.eps, ctx.dtype = namespace, eps, dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, h, *parameters = ctx.saved_tensors
        _, need_x, *need_parameters = ctx.needs_input_grad
        results = getattr(torch.ops, ctx.namespace).residual_projector_backward.default(
            grads[0], x, h, *parameters, ctx.eps, ctx.dtype, need_x, any(need_parameters)
        )
        grad_x, rest = (results[0], results[1:]) if need_x else (None, results)
        return None, grad_x, *rest, *[None] * (len(need_parameters) - len(rest))


def forward_fake(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """out and h without their values."""
    *given, _, dtype = rest
    shape = (*x.shape[:2], Parameters(*given).b1.shape[1])
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


def backward_fake(grad: Tensor, x: Tensor, h: Tensor | None, *rest: Any) -> list[Tensor]:
    """The gradients that are needed, without their values."""
    *given, _, _, need_x, need_parameters = rest
    results = [x.new_empty(x.shape)] if need_x else []
    return results + [p.new_empty(p.shape) for p in given if p is not None] * need_parameters


def _forward_flops(x: Any, *rest: Any, **kwargs: Any) -> int:
    """Two products, and the linear skip's."""
    (layers, rows, width_in), width, linear_skip = x, rest[3][1], rest[6] is not None
    return 2 * layers * rows * width * (width_in * (1 + linear_skip) + width)


def _backward_flops(grad: Any, x: Any, h: Any, *rest: Any, **kwargs: Any) -> int:
    """One or two products for each in forward, and the hidden one again if it was not kept."""
    (layers, rows, width_in), width = x, grad[2]
    need_parameters = rest[-1]
    forward = _forward_flops(x, *rest)
    again = 2 * layers * rows * width_in * width if h is None else 0
    return forward * (1 + need_parameters) + again
