"""The two operators of a fused backend, one a direction, that torch.compile sees as they are, and their autograd.

``hive_kernels::cross_attention`` are our Triton kernels, ``hive_kernels_cuda::cross_attention`` those in CUDA C++. Kept
for backward: q, k, v, out and lse, nothing else.
"""

from math import log
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor cu_seqlens_q, Tensor? cu_seqlens_k, float scale, SymInt longest"
_GRADIENTS = "Tensor dq, Tensor dk, Tensor dv"


def define(library: torch.library.Library) -> None:
    """The schemas in the library's namespace, results without values, and FLOPs; lse is fp32, in base 2."""
    tags = (torch.Tag.pt2_compliant_tag,)
    library.define(f"cross_attention({_INPUTS}) -> (Tensor out, Tensor lse)", tags=tags)
    library.define(
        f"cross_attention_backward(Tensor grad, Tensor out, Tensor lse, {_INPUTS}) -> ({_GRADIENTS})", tags=tags
    )
    namespace = getattr(torch.ops, library.ns)
    torch.library.register_fake(f"{library.ns}::cross_attention", _forward_fake, lib=library)
    torch.library.register_fake(f"{library.ns}::cross_attention_backward", _backward_fake, lib=library)
    register_flop_formula(namespace.cross_attention, get_raw=True)(_forward_flops)
    register_flop_formula(namespace.cross_attention_backward, get_raw=True)(_backward_flops)


def cross_attention(
    namespace: str,
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
    out, lse = _CrossAttention.apply(namespace, q, k, v, cu_seqlens_q, cu_seqlens_k, float(scale), longest)
    return (out, lse * log(2)) if return_lse else out


class _CrossAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, namespace: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, scale, longest = inputs
        out, lse = getattr(torch.ops, namespace).cross_attention.default(*inputs)
        ctx.save_for_backward(out, lse, *tensors)
        ctx.namespace, ctx.scale, ctx.longest = namespace, scale, longest
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None:  # nothing downstream depends on the output
            return (None,) * 8
        gradients = getattr(torch.ops, ctx.namespace).cross_attention_backward.default(
            grads[0], *ctx.saved_tensors, ctx.scale, ctx.longest
        )
        return None, *gradients, None, None, None, None


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
