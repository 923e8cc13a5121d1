"""cuBLAS and our Triton kernels behind two operators, one a direction, that torch.compile sees as they are.

Backward needs n, the hidden product h = n w1 (without its bias) and gelu(h + b1). Of these h alone is kept, or nothing
with ``recompute``; LayerNorm and GELU are cheaper to run again than to write, keep and read.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from hive_kernels import launch
from hive_kernels.projector import tiles

_LIBRARY = torch.library.Library("hive_kernels", "FRAGMENT")
_PARAMETERS = (
    "Tensor ln_w, Tensor ln_b, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? w_skip, Tensor? b_skip, "
    "float eps, ScalarType dtype"
)
_LIBRARY.define(
    f"residual_projector(Tensor x, {_PARAMETERS}) -> (Tensor out, Tensor h)", tags=(torch.Tag.pt2_compliant_tag,)
)
_LIBRARY.define(
    f"residual_projector_backward(Tensor grad, Tensor x, Tensor? h, {_PARAMETERS}, bool need_x, bool need_parameters) "
    "-> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def residual_projector(
    x: Tensor,
    ln_w: Tensor,
    ln_b: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w_skip: Tensor | None,
    b_skip: Tensor | None,
    eps: float,
    gemm_dtype: torch.dtype,
    recompute: bool,
) -> Tensor:
    """x [S, M, Dv] -> [S, M, D] in ``gemm_dtype``."""
    return _Projector.apply(x, ln_w, ln_b, w1, b1, w2, b2, w_skip, b_skip, eps, gemm_dtype, recompute)


class _Projector(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        *parameters, eps, dtype, recompute = rest
        out, h = torch.ops.hive_kernels.residual_projector(x, *parameters, eps, dtype)
        ctx.save_for_backward(x, None if recompute else h, *parameters)
        ctx.eps, ctx.dtype = eps, dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, h, *parameters = ctx.saved_tensors
        need_x, need_parameters = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:9])
        results = torch.ops.hive_kernels.residual_projector_backward(
            grads[0], x, h, *parameters, ctx.eps, ctx.dtype, need_x, need_parameters
        )
        grad_x, rest = (results[0], results[1:]) if need_x else (None, results)
        return grad_x, *rest, *[None] * (11 - len(rest))


class _Parameters(NamedTuple):
    """As the operators get them; a skip of None is the identity."""

    ln_w: Tensor
    ln_b: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    w_skip: Tensor | None
    b_skip: Tensor | None

    def cast(self, dtype: torch.dtype) -> "_Parameters":
        """Contiguous, matrices in the products' ``dtype``; what the kernels read as vectors stays as it is."""
        w1, w2 = self.w1.to(dtype).contiguous(), self.w2.to(dtype).contiguous()
        w_skip = None if self.w_skip is None else self.w_skip.to(dtype).contiguous()
        vectors = (self.ln_w.contiguous(), self.ln_b.contiguous())
        return _Parameters(*vectors, w1, self.b1.contiguous(), w2, self.b2.contiguous(), w_skip, self.b_skip)


def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    from hive_kernels.projector import triton_gemm, triton_kernels

    *given, eps, dtype = rest
    if x.shape[0] == 0 or x.shape[1] == 0:
        return _forward_fake(x, *rest)
    with launch.ready("residual_projector", x.device, x.dtype, dtype):
        p = _Parameters(*given).cast(dtype)
        n, skip = triton_kernels.layer_norm(_rows(x), p.ln_w, p.ln_b, p.b2 if p.w_skip is None else None, eps, dtype)
        tile = _gemm_tile("hidden", n, p.b1.shape[1])
        if tile is None:
            h = torch.bmm(n, p.w1)
            a = triton_kernels.gelu(h, p.b1)
        else:
            h, a = triton_gemm.hidden(n, p.w1, p.b1, tile)
        if p.w_skip is None or p.b_skip is None:
            assert skip is not None
            return torch.baddbmm(skip, a, p.w2, out=skip), h
        bias = (p.b2 + p.b_skip).to(dtype)
        tile = _gemm_tile("output", n, p.b1.shape[1])
        if tile is not None:
            return triton_gemm.output(n, p.w_skip, a, p.w2, bias, tile), h
        out = torch.empty_like(h)
        for layer in range(len(out)):  # apart, because addmm alone adds a bias without a pass of its own
            torch.addmm(bias[layer], n[layer], p.w_skip[layer], out=out[layer])
        return torch.baddbmm(out, a, p.w2, out=out), h


def _backward(grad: Tensor, x: Tensor, h: Tensor | None, *rest: Any) -> list[Tensor]:
    """The gradient of x, if needed, then of all parameters, if needed."""
    from hive_kernels.projector import triton_gemm, triton_kernels

    *given, eps, dtype, need_x, need_parameters = rest
    if x.shape[0] == 0 or x.shape[1] == 0:
        return [torch.zeros_like(g) for g in _backward_fake(grad, x, h, *rest)]
    with launch.ready("residual_projector_backward", x.device, x.dtype, dtype):
        p = _Parameters(*given).cast(dtype)
        x, grad = _rows(x), grad.contiguous()
        n = None
        if h is None:
            n, _ = triton_kernels.layer_norm(x, p.ln_w, p.ln_b, None, eps, dtype)
            h = a = torch.bmm(n, p.w1)  # the activation then takes its place
        else:
            a = torch.empty_like(h)
        grad_h = torch.bmm(grad, p.w2.transpose(1, 2))
        biases = triton_kernels.gelu_backward(h, p.b1, grad_h, grad, a)
        matrices = []
        if need_parameters:
            grad_w2 = torch.bmm(a.transpose(1, 2), grad)
            del h, a  # n may then lie where the activation was
            if n is None:
                n, _ = triton_kernels.layer_norm(x, p.ln_w, p.ln_b, None, eps, dtype)
            matrices = [torch.bmm(n.transpose(1, 2), grad_h), grad_w2]
            if p.w_skip is not None:
                matrices.append(torch.bmm(n.transpose(1, 2), grad))
        grad_n = torch.empty(x.shape, dtype=dtype, device=x.device) if n is None else n  # n has served
        tile = _gemm_tile("features", grad, x.shape[2])
        if p.w_skip is None:
            torch.bmm(grad_h, p.w1.transpose(1, 2), out=grad_n)
        elif tile is None:
            torch.bmm(grad, p.w_skip.transpose(1, 2), out=grad_n)
            torch.baddbmm(grad_n, grad_h, p.w1.transpose(1, 2), out=grad_n)
        else:
            triton_gemm.features(grad, p.w_skip, grad_h, p.w1, grad_n, tile)
        identity = grad if p.w_skip is None else None
        grad_x, norm = triton_kernels.layer_norm_backward(x, grad_n, identity, p.ln_w, eps, need_x)
    results = [] if grad_x is None else [grad_x]
    if need_parameters:
        vectors = [norm[:, 0], norm[:, 1], biases[:, 0], biases[:, 1], biases[:, 1]]
        ln_w, ln_b, b1, b2, b_skip = vectors
        in_order = [ln_w, ln_b, matrices[0], b1, matrices[1], b2, *matrices[2:], b_skip]
        # Copies: an operator's results share no memory, and b2 and b_skip have the same gradient.
        results += [
            g.to(parameter.dtype, copy=g.dim() == 2)
            for g, parameter in zip(in_order, given, strict=False)
            if parameter is not None
        ]
    return results


def _rows(x: Tensor) -> Tensor:
    """The kernels take any stride over layers and rows, but not within a row."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _gemm_tile(product: str, a: Tensor, columns: int) -> tiles.Gemm | None:
    """The table's answer for a product of ``a`` [S, M, inner] with [S, inner, columns]."""
    layers, rows, inner = a.shape
    dtype = str(a.dtype).removeprefix("torch.")
    return tiles.gemm(product, launch.capability(a.device), dtype, layers * rows, inner, columns)


def _forward_fake(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *given, _, dtype = rest
    shape = (*x.shape[:2], _Parameters(*given).b1.shape[1])
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


def _backward_fake(grad: Tensor, x: Tensor, h: Tensor | None, *rest: Any) -> list[Tensor]:
    *given, _, _, need_x, need_parameters = rest
    results = [x.new_empty(x.shape)] if need_x else []
    return results + [p.new_empty(p.shape) for p in given if p is not None] * need_parameters


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("residual_projector", _forward, _device)
    _LIBRARY.impl("residual_projector_backward", _backward, _device)
torch.library.register_fake("hive_kernels::residual_projector", _forward_fake, lib=_LIBRARY)
torch.library.register_fake("hive_kernels::residual_projector_backward", _backward_fake, lib=_LIBRARY)


@register_flop_formula(torch.ops.hive_kernels.residual_projector)
def _forward_flops(x: Any, *rest: Any, **kwargs: Any) -> int:
    """Two products, and the linear skip's."""
    (layers, rows, width_in), width, linear_skip = x, rest[3][1], rest[6] is not None
    return 2 * layers * rows * width * (width_in * (1 + linear_skip) + width)


@register_flop_formula(torch.ops.hive_kernels.residual_projector_backward)
def _backward_flops(grad: Any, x: Any, h: Any, *rest: Any, **kwargs: Any) -> int:
    """Two products for each in forward, and the hidden one again where it was not kept."""
    (layers, rows, width_in), width = x, grad[2]
    need_parameters = rest[-1]
    forward = _forward_flops(x, *rest)
    again = 2 * layers * rows * width_in * width if h is None else 0
    return forward * (1 + need_parameters) + again
