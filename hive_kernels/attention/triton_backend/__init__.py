"""Cross-attention, joint attention and attention maps by our Triton kernels, behind operators in ``hive_kernels``.

The modules of this folder import Triton, so they are imported when a kernel is first launched. forward.py, backward.py
and weights.py have the kernels, each with its launch; problem.py has what a launch passes, addressing.py what kernels
share, cases.py every launch, for compilation without a GPU. The joint operation runs the kernels of cross-attention
with a second, causal key segment. Beyond its results, backward needs memory for delta, fp32 [T, Hq].
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hive_kernels import launch
from hive_kernels.attention import ops
from hive_kernels.attention.limits import Limits
from hive_kernels.attention.tiles import MAX_HEAD_DIM
from hive_kernels.compile_case import CompileCase

# The dtypes that have tiles, and heads that fit one tile.
LIMITS = Limits(launch.DTYPES, f"at most {MAX_HEAD_DIM}", lambda size: size <= MAX_HEAD_DIM)

ops.define(launch.LIBRARY, "cross_attention", ops.CROSS)
ops.define(launch.LIBRARY, "joint_attention", ops.JOINT)
ops.define_weights(launch.LIBRARY)


def cross_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, max_seqlen_q: int | None, cu_seqlens_k: Tensor | None,
    max_seqlen_k: int | None, scale: float, return_lse: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """As reference.cross_attention."""
    LIMITS.check(q, "triton")
    return ops.cross_attention(launch.LIBRARY.ns, q, k, v, cu_seqlens_q, max_seqlen_q, cu_seqlens_k, scale, return_lse)


def joint_attention(
    q: Tensor, k_text: Tensor, v_text: Tensor, k_image: Tensor, v_image: Tensor, cu_seqlens: Tensor,
    max_seqlen: int | None, cu_seqlens_image: Tensor | None, max_seqlen_image: int | None, scale: float,
) -> Tensor:  # fmt: skip
    """As reference.joint_attention."""
    LIMITS.check(q, "triton")
    return ops.joint_attention(
        launch.LIBRARY.ns, q, k_text, v_text, k_image, v_image, cu_seqlens, max_seqlen, cu_seqlens_image, scale
    )


def cross_attention_weights(
    q: Tensor, k: Tensor, lse: Tensor, tokens: Tensor, samples: Tensor, cu_seqlens_k: Tensor | None, scale: float,
    width: int, head_mean: bool,
) -> Tensor:  # fmt: skip
    """As reference.cross_attention_weights."""
    LIMITS.check(q, "triton")
    return torch.ops.hive_kernels.cross_attention_weights(
        q, k, lse, tokens, samples, cu_seqlens_k, scale, width, head_mean
    )


def compile_cases(capability: int) -> Iterator[CompileCase]:
    """Every launch on GPUs of ``capability``, as 86."""
    from hive_kernels.attention.triton_backend import cases, weights

    yield from cases.compile_cases(capability)
    yield from weights.compile_cases()


def _forward(*inputs: Any) -> tuple[Tensor, Tensor]:
    from hive_kernels.attention.triton_backend import forward
    from hive_kernels.attention.triton_backend.problem import Problem

    return forward.forward(Problem.of(*inputs))


def _backward(grad: Tensor, out: Tensor, lse: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    from hive_kernels.attention.triton_backend import backward
    from hive_kernels.attention.triton_backend.problem import Problem

    return backward.backward(Problem.of(*inputs), out, lse, grad)


def _weights(*inputs: Any) -> Tensor:
    from hive_kernels.attention.triton_backend import weights

    return weights.weights(*inputs)


for _operation in ("cross_attention", "joint_attention"):
    launch.implement(_operation, _forward)
    launch.implement(f"{_operation}_backward", _backward)
launch.implement("cross_attention_weights", _weights)
