"""Our Triton kernels behind two operators, one a direction, that torch.compile sees as they are.

Kept for backward: q, k, v, out and lse, nothing else. Memory of the backward beyond its results: delta, fp32 [T, Hq].
"""

from math import log
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from hive_kernels.cross_attention.tiles import MAX_HEAD_DIM
from hive_kernels.launch import DTYPES
from hive_kernels.validation import invalid

_LIBRARY = torch.library.Library("hive_kernels", "FRAGMENT")
_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor cu_seqlens_q, Tensor? cu_seqlens_k, float scale, SymInt longest"
_LIBRARY.define(f"cross_attention({_INPUTS}) -> (Tensor out, Tensor lse)", tags=(torch.Tag.pt2_compliant_tag,))
_LIBRARY.define(
    f"cross_attention_backward(Tensor grad, Tensor out, Tensor lse, {_INPUTS}) -> (Tensor dq, Tensor dk, Tensor dv)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None,
    scale: float,
    longest: int,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """q [T, Hq, D], k, v [B, N, Hkv, D] or packed [Tk, Hkv, D] -> out [T, Hq, D] and, where asked for, lse [T, Hq].

    ``longest`` bounds the tokens of a text; T will do where nothing better is known without asking the device.
    """
    check_served(q)
    out, lse = _CrossAttention.apply(q, k, v, cu_seqlens_q, cu_seqlens_k, float(scale), longest)
    return (out, lse * log(2)) if return_lse else out


def check_served(q: Tensor) -> None:
    """The dtypes that the kernels have tiles for, and a head that is one tile wide."""
    if q.dtype not in DTYPES:
        raise invalid("q.dtype", q.dtype, f"{', '.join(map(str, DTYPES))} under backend 'triton'")
    if q.shape[2] > MAX_HEAD_DIM:
        raise invalid("q.shape[2]", q.shape[2], f"at most {MAX_HEAD_DIM} under backend 'triton'")


class _CrossAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, scale, longest = inputs
        out, lse = torch.ops.hive_kernels.cross_attention(*inputs)
        ctx.save_for_backward(out, lse, *tensors)
        ctx.scale, ctx.longest = scale, longest
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = torch.ops.hive_kernels.cross_attention_backward(
            grads[0], *ctx.saved_tensors, ctx.scale, ctx.longest
        )
        return *gradients, None, None, None, None


def _forward(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor | None, scale: float, longest: int
) -> tuple[Tensor, Tensor]:
    from hive_kernels.cross_attention import triton_kernels

    return triton_kernels.forward(triton_kernels.Problem.of(q, k, v, None, None, cu_q, cu_k, scale, longest))


def _backward(
    grad: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor | None,
    scale: float, longest: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    from hive_kernels.cross_attention import triton_kernels

    problem = triton_kernels.Problem.of(q, k, v, None, None, cu_q, cu_k, scale, longest)
    return triton_kernels.backward(problem, out, lse, grad)


def _forward_fake(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


def _backward_fake(grad: Tensor, out: Tensor, lse: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in inputs[:3])


def visible_pairs(cu_seqlens_q: Tensor, tokens: int, k: Tensor, cu_seqlens_k: Tensor | None) -> int:
    """Pairs of a text token and a visual key of its sample; where offsets have no values, were all images alike."""
    if cu_seqlens_k is None:
        return tokens * k.shape[1]
    if type(cu_seqlens_k) is not Tensor or cu_seqlens_k.is_meta:
        return tokens * k.shape[0] // max(cu_seqlens_q.shape[0] - 1, 1)
    return int((cu_seqlens_q.diff().long() * cu_seqlens_k.diff()).sum())


def _forward_flops(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor | None, *_: Any, **__: Any) -> int:
    """Two products a query head."""
    return 4 * visible_pairs(cu_q, q.shape[0], k, cu_k) * q.shape[1] * q.shape[2]


def _backward_flops(grad: Tensor, out: Tensor, lse: Tensor, *inputs: Any, **_: Any) -> int:
    """Five products: the scores again, dP, dV, dQ, dK. That two kernels compute scores and dP twice isn't counted."""
    return _forward_flops(*inputs) * 5 // 2


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("cross_attention", _forward, _device)
    _LIBRARY.impl("cross_attention_backward", _backward, _device)
torch.library.register_fake("hive_kernels::cross_attention", _forward_fake, lib=_LIBRARY)
torch.library.register_fake("hive_kernels::cross_attention_backward", _backward_fake, lib=_LIBRARY)
register_flop_formula(torch.ops.hive_kernels.cross_attention, get_raw=True)(_forward_flops)
register_flop_formula(torch.ops.hive_kernels.cross_attention_backward, get_raw=True)(_backward_flops)
