"""Our Triton kernels, those of cross_attention with a second, causal key segment, behind two operators.

Kept for backward: the five inputs, out and lse. Memory of the backward beyond its results: delta, [T, Hq] in fp32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from hive_kernels.cross_attention.operators import visible_pairs
from hive_kernels.cross_attention.triton_backend import check_served

_LIBRARY = torch.library.Library("hive_kernels", "FRAGMENT")
_INPUTS = (
    "Tensor q, Tensor k_text, Tensor v_text, Tensor k_image, Tensor v_image, Tensor cu_seqlens, "
    "Tensor? cu_seqlens_image, float scale, SymInt longest"
)
_LIBRARY.define(f"joint_attention({_INPUTS}) -> (Tensor out, Tensor lse)", tags=(torch.Tag.pt2_compliant_tag,))
_LIBRARY.define(
    f"joint_attention_backward(Tensor grad, Tensor out, Tensor lse, {_INPUTS}) "
    "-> (Tensor dq, Tensor dk_text, Tensor dv_text, Tensor dk_image, Tensor dv_image)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def joint_attention(
    q: Tensor,
    k_text: Tensor,
    v_text: Tensor,
    k_image: Tensor,
    v_image: Tensor,
    cu_seqlens: Tensor,
    cu_seqlens_image: Tensor | None,
    scale: float,
    longest: int,
) -> Tensor:
    """As reference.joint_attention; ``longest`` bounds the tokens of a text, T will do."""
    check_served(q)
    inputs = (q, k_text, v_text, k_image, v_image, cu_seqlens, cu_seqlens_image, float(scale), longest)
    return _JointAttention.apply(*inputs)


class _JointAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, scale, longest = inputs
        out, lse = torch.ops.hive_kernels.joint_attention(*inputs)
        ctx.save_for_backward(out, lse, *tensors)
        ctx.scale, ctx.longest = scale, longest
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = torch.ops.hive_kernels.joint_attention_backward(
            grads[0], *ctx.saved_tensors, ctx.scale, ctx.longest
        )
        return *gradients, None, None, None, None


def _problem(
    q: Tensor, k_text: Tensor, v_text: Tensor, k_image: Tensor, v_image: Tensor, cu_q: Tensor, cu_k: Tensor | None,
    scale: float, longest: int,
) -> Any:  # fmt: skip
    from hive_kernels.cross_attention import triton_kernels

    return triton_kernels.Problem.of(q, k_image, v_image, k_text, v_text, cu_q, cu_k, scale, longest)


def _forward(*inputs: Any) -> tuple[Tensor, Tensor]:
    from hive_kernels.cross_attention import triton_kernels

    return triton_kernels.forward(_problem(*inputs))


def _backward(grad: Tensor, out: Tensor, lse: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    from hive_kernels.cross_attention import triton_kernels

    return triton_kernels.joint_backward(_problem(*inputs), out, lse, grad)


def _forward_fake(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


def _backward_fake(grad: Tensor, out: Tensor, lse: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in inputs[:5])


def _forward_flops(q: Tensor, *inputs: Any, **_: Any) -> int:
    """Two products a query head. Causal pairs count in full, as in torch's own formulas."""
    k_text, _v_text, k_image, _v_image, cu_seqlens, cu_seqlens_image = inputs[:6]
    pairs = visible_pairs(cu_seqlens, q.shape[0], k_image, cu_seqlens_image)
    pairs += visible_pairs(cu_seqlens, q.shape[0], k_text, cu_seqlens)
    return 4 * pairs * q.shape[1] * q.shape[2]


def _backward_flops(grad: Tensor, out: Tensor, lse: Tensor, *inputs: Any, **_: Any) -> int:
    return _forward_flops(*inputs) * 5 // 2


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("joint_attention", _forward, _device)
    _LIBRARY.impl("joint_attention_backward", _backward, _device)
torch.library.register_fake("hive_kernels::joint_attention", _forward_fake, lib=_LIBRARY)
torch.library.register_fake("hive_kernels::joint_attention_backward", _backward_fake, lib=_LIBRARY)
register_flop_formula(torch.ops.hive_kernels.joint_attention, get_raw=True)(_forward_flops)
register_flop_formula(torch.ops.hive_kernels.joint_attention_backward, get_raw=True)(_backward_flops)
