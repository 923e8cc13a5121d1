"""The operators of fused attention, which torch.compile doesn't look into, and their autograd.

A fused backend has two operators per operation, forward and backward, in the namespace of its library:
``hive_kernels::cross_attention`` runs our Triton kernels, ``hive_kernels_cuda::cross_attention`` those in CUDA C++. The
joint operation has text keys and values before the visual ones. The inputs, out and lse are kept for backward, nothing
else. Attention maps have one operator, which isn't differentiable.
"""

from math import log
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

CROSS = ("q", "k", "v")
JOINT = ("q", "k_text", "v_text", "k_image", "v_image")
_TAGS = (torch.Tag.pt2_compliant_tag,)


def define(library: torch.library.Library, operation: str, tensors: tuple[str, ...]) -> None:
    """Defines the operators of ``operation`` and its backward: schemas, results without values, and FLOPs.

    Of the inputs, ``longest`` bounds the tokens of a text: T if no smaller bound is known without synchronising the
    device. The lse is fp32, in base 2.

    Args:
        library: has the operators in its namespace.
        operation: the operator's name; its backward has the suffix ``_backward``.
        tensors: the names of the differentiable inputs, CROSS or JOINT.
    """
    inputs = ", ".join(f"Tensor {name}" for name in tensors)
    inputs += ", Tensor cu_seqlens_q, Tensor? cu_seqlens_k, float scale, SymInt longest"
    gradients = ", ".join(f"Tensor d{name}" for name in tensors)
    backward = f"{operation}_backward"
    library.define(f"{operation}({inputs}) -> (Tensor out, Tensor lse)", tags=_TAGS)
    library.define(f"{backward}(Tensor grad, Tensor out, Tensor lse, {inputs}) -> ({gradients})", tags=_TAGS)
    torch.library.register_fake(f"{library.ns}::{operation}", _forward_fake, lib=library)
    torch.library.register_fake(f"{library.ns}::{backward}", _backward_fake, lib=library)
    namespace = getattr(torch.ops, library.ns)
    register_flop_formula(getattr(namespace, operation), get_raw=True)(_forward_flops)
    register_flop_formula(getattr(namespace, backward), get_raw=True)(_backward_flops)


def cross_attention(
    namespace: str, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, max_seqlen_q: int | None,
    cu_seqlens_k: Tensor | None, scale: float, return_lse: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """As reference.cross_attention, by the operators of ``namespace``."""
    longest = q.shape[0] if max_seqlen_q is None else max_seqlen_q
    inputs = (q, k, v, cu_seqlens_q, cu_seqlens_k, float(scale), longest)
    out, lse = _Attention.apply(namespace, "cross_attention", *inputs)
    return out, lse * log(2) if return_lse else None


def joint_attention(
    namespace: str, q: Tensor, k_text: Tensor, v_text: Tensor, k_image: Tensor, v_image: Tensor, cu_seqlens: Tensor,
    max_seqlen: int | None, cu_seqlens_image: Tensor | None, scale: float,
) -> Tensor:  # fmt: skip
    """As reference.joint_attention, by the operators of ``namespace``."""
    longest = q.shape[0] if max_seqlen is None else max_seqlen
    inputs = (q, k_text, v_text, k_image, v_image, cu_seqlens, cu_seqlens_image, float(scale), longest)
    return _Attention.apply(namespace, "joint_attention", *inputs)[0]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, namespace: str, operation: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, scale, longest = inputs
        out, lse = getattr(getattr(torch.ops, namespace), operation).default(*inputs)
        ctx.save_for_backward(out, lse, *tensors)
        ctx.namespace, ctx.operation, ctx.scale, ctx.longest = namespace, operation, scale, longest
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        out, lse, *tensors = ctx.saved_tensors
        if grads[0] is None:  # nothing downstream depends on the output
            return (None,) * (4 + len(tensors))
        backward = getattr(getattr(torch.ops, ctx.namespace), f"{ctx.operation}_backward").default
        gradients = backward(grads[0], out, lse, *tensors, ctx.scale, ctx.longest)
        return None, None, *gradients, None, None, None, None


def _forward_fake(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


def _backward_fake(grad: Tensor, out: Tensor, lse: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    *tensors, _cu_seqlens_q, _cu_seqlens_k, _scale, _longest = inputs
    return tuple(x.new_empty(x.shape) for x in tensors)


def _visible_pairs(cu_seqlens_q: Tensor, tokens: int, k: Tensor, cu_seqlens_k: Tensor | None) -> int:
    """Pairs of a text token and a visual key of its sample; offsets without values count as images of one size."""
    if cu_seqlens_k is None:
        return tokens * k.shape[1]
    if type(cu_seqlens_k) is not Tensor or cu_seqlens_k.is_meta:
        return tokens * k.shape[0] // max(cu_seqlens_q.shape[0] - 1, 1)
    return int((cu_seqlens_q.diff().long() * cu_seqlens_k.diff()).sum())


def _forward_flops(q: Tensor, *inputs: Any, **_: Any) -> int:
    """Two products per query head. The joint operation's causal pairs count in full, as in torch's own formulas."""
    *keys_values, cu_seqlens_q, cu_seqlens_k, _scale, _longest = inputs
    pairs = _visible_pairs(cu_seqlens_q, q.shape[0], keys_values[-2], cu_seqlens_k)
    if len(keys_values) > 2:
        pairs += _visible_pairs(cu_seqlens_q, q.shape[0], keys_values[0], cu_seqlens_q)
    return 4 * pairs * q.shape[1] * q.shape[2]


def _backward_flops(grad: Tensor, out: Tensor, lse: Tensor, *inputs: Any, **_: Any) -> int:
    """Five products: the scores again, dP, dV, dQ, dK. Two kernels that both compute scores and dP count them once."""
    return _forward_flops(*inputs) * 5 // 2


def define_weights(library: torch.library.Library) -> None:
    """Defines ``cross_attention_weights``: the schema, the result without values, and FLOPs; lse is natural."""
    library.define(
        "cross_attention_weights(Tensor q, Tensor k, Tensor lse, Tensor tokens, Tensor samples, Tensor? cu_seqlens_k, "
        "float scale, SymInt width, bool head_mean) -> Tensor",
        tags=_TAGS,
    )
    torch.library.register_fake(f"{library.ns}::cross_attention_weights", _weights_fake, lib=library)
    register_flop_formula(getattr(torch.ops, library.ns).cross_attention_weights)(_weights_flops)


def _weights_fake(
    q: Tensor, k: Tensor, lse: Tensor, tokens: Tensor, samples: Tensor, cu_k: Tensor | None, scale: float, width: int,
    head_mean: bool,
) -> Tensor:  # fmt: skip
    return lse.new_empty((tokens.shape[0], width) if head_mean else (tokens.shape[0], q.shape[1], width))


def _weights_flops(
    q: Any, k: Any, lse: Any, tokens: Any, samples: Any, cu_k: Any, scale: float, width: int, *_: Any, **__: Any
) -> int:
    """One product per query head and chosen token."""
    return 2 * tokens[0] * q[1] * q[2] * width
