"""The forward and backward pass of the residual projector, by products of cuBLAS and our Triton kernels.

Backward needs n, the hidden product h = n w1 (without its bias) and gelu(h + b1). Only h is kept, or nothing if it is
to be computed again; LayerNorm and GELU are cheaper to run again than to write, keep and read.
"""

from typing import Any

import torch
from torch import Tensor

from hive_kernels import launch
from hive_kernels.projector import tiles
from hive_kernels.projector.ops import backward_fake, forward_fake
from hive_kernels.projector.parameters import Parameters
from hive_kernels.projector.triton_backend import elementwise, gemm


def forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """out and h, both [S, M, D] in the products' dtype."""
    *given, eps, dtype = rest
    if x.shape[0] == 0 or x.shape[1] == 0:
        return forward_fake(x, *rest)
    with launch.ready("residual_projector", x.device, x.dtype, dtype):
        p = Parameters(*given).cast(dtype)
        n, skip = elementwise.layer_norm(_rows(x), p.ln_w, p.ln_b, p.b2 if p.w_skip is None else None, eps, dtype)
        tile = _gemm_tile("hidden", n, p.b1.shape[1])
        if tile is None:
            h = torch.bmm(n, p.w1)
            a = elementwise.gelu(h, p.b1)
        else:
            h, a = gemm.hidden(n, p.w1, p.b1, tile)
        if p.w_skip is None or p.b_skip is None:
            assert skip is not None
            return torch.baddbmm(skip, a, p.w2, out=skip), h
        bias = (p.b2 + p.b_skip).to(dtype)
        tile = _gemm_tile("output", n, p.b1.shape[1])
        if tile is not None:
            return gemm.output(n, p.w_skip, a, p.w2, bias, tile), h
        out = torch.empty_like(h)
        for layer in range(len(out)):  # one by one, because only addmm adds a bias without another pass
            torch.addmm(bias[layer], n[layer], p.w_skip[layer], out=out[layer])
        return torch.baddbmm(out, a, p.w2, out=out), h


def backward(grad: Tensor, x: Tensor, h: Tensor | None, *rest: Any) -> list[Tensor]:
    """The gradient of x, if needed, then of all parameters, if needed."""
    *given, eps, dtype, need_x, need_parameters = rest
    if x.shape[0] == 0 or x.shape[1] == 0:
        return [torch.zeros_like(g) for g in backward_fake(grad, x, h, *rest)]
    with launch.ready("residual_projector_backward", x.device, x.dtype, dtype):
        p = Parameters(*given).cast(dtype)
        x, grad = _rows(x), grad.contiguous()
        n = None
        if h is None:
            n, _ = elementwise.layer_norm(x, p.ln_w, p.ln_b, None, eps, dtype)
            h = a = torch.bmm(n, p.w1)  # gelu_backward overwrites h with the activation
        else:
            a = torch.empty_like(h)
        grad_h = torch.bmm(grad, p.w2.transpose(1, 2))
        biases = elementwise.gelu_backward(h, p.b1, grad_h, grad, a)
        matrices = []
        if need_parameters:
            grad_w2 = torch.bmm(a.transpose(1, 2), grad)
            del h, a  # so that n can reuse the activation's memory
            if n is None:
                n, _ = elementwise.layer_norm(x, p.ln_w, p.ln_b, None, eps, dtype)
            matrices = [torch.bmm(n.transpose(1, 2), grad_h), grad_w2]
            if p.w_skip is not None:
                matrices.append(torch.bmm(n.transpose(1, 2), grad))
        grad_n = torch.empty(x.shape, dtype=dtype, device=x.device) if n is None else n  # n isn't read again
        tile = _gemm_tile("features", grad, x.shape[2])
        if p.w_skip is None:
            torch.bmm(grad_h, p.w1.transpose(1, 2), out=grad_n)
        elif tile is None:
            torch.bmm(grad, p.w_skip.transpose(1, 2), out=grad_n)
            torch.baddbmm(grad_n, grad_h, p.w1.transpose(1, 2), out=grad_n)
        else:
            gemm.features(grad, p.w_skip, grad_h, p.w1, grad_n, tile)
        identity = grad if p.w_skip is None else None
        grad_x, norm = elementwise.layer_norm_backward(x, grad_n, identity, p.ln_w, eps, need_x)
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
    """``x``, or a copy if its rows aren't contiguous; the kernels take any stride over layers and rows."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _gemm_tile(product: str, a: Tensor, columns: int) -> tiles.Gemm | None:
    """The table's tile for a product of ``a`` [S, M, inner] with [S, inner, columns]; None for cuBLAS."""
    layers, rows, inner = a.shape
    dtype = str(a.dtype).removeprefix("torch.")
    return tiles.gemm(product, launch.capability(a.device), dtype, layers * rows, inner, columns)
