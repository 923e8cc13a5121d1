"""The forward pass of attention of packed text over images, and over images and text at once.

Scores and log-sum-exp are in base 2 in the kernels. addressing.py defines rows and key segments.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hive_kernels.attention.triton_backend.addressing import (
    key_base,
    load,
    locate,
    row_base,
    row_offsets,
    segment,
    store,
    visible,
)
from hive_kernels.attention.triton_backend.problem import LOG2_E, Problem
from hive_kernels.launch import ready


@triton.jit
def _attend(
    acc, top, total, q, k, v, stride_kn, stride_vn, start, stop, scale, rows,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Online softmax of the rows over keys start..stop: the sum of values, the largest score, the sum of weights."""
    nearby = tl.arange(0, BLOCK_N)
    for first in range(start, stop, BLOCK_N):
        n = first + nearby
        keys = load(k + tl.cast(first, tl.int64) * stride_kn, nearby * stride_kn, n < stop, MASKED, HEAD_DIM, BLOCK_D)
        scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale
        if MASKED:
            scores = tl.where(visible(n, stop, rows, CAUSAL, GROUP), scores, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - highest[:, None])
        shrink = tl.exp2(top - highest)
        total = total * shrink + tl.sum(weights, 1)
        values = load(v + tl.cast(first, tl.int64) * stride_vn, nearby * stride_vn, n < stop, MASKED, HEAD_DIM, BLOCK_D)
        acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
        top = highest
    return acc, top, total


@triton.jit(do_not_specialize=["tokens", "keys", "batch"])
def forward_kernel(
    q, k, v, k_text, v_text, out, lse, cu_seqlens_q, cu_seqlens_k,
    stride_qt, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    stride_kt, stride_kth, stride_vt, stride_vth, tokens, keys, batch, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """One tile of rows over all its keys. Grid (slots of BLOCK_M rows, key heads).

    keys: of each image, or of all of them with cu_seqlens_k. EVEN: a multiple of BLOCK_N for every sample.
    scale: on scores, times log2(e). Without k_text there is no causal segment.
    """
    sample, begin, length, row = locate(tl.program_id(0), cu_seqlens_q, batch, tokens, GROUP, BLOCK_M)
    if row >= length * GROUP:
        return
    head, heads = tl.program_id(1), tl.num_programs(1)
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < length * GROUP
    q = row_base(q, begin, row, head, stride_qt, stride_qh, GROUP)
    offsets = row_offsets(rows, row, stride_qt, stride_qh, GROUP)
    queries = load(q, offsets, inside, True, HEAD_DIM, BLOCK_D)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)

    begin_k, length_k = segment(sample, cu_seqlens_k, keys)
    k = key_base(k, sample, begin_k, head, stride_kb, stride_kn, stride_kh)
    v = key_base(v, sample, begin_k, head, stride_vb, stride_vn, stride_vh)
    acc, top, total = _attend(
        acc, top, total, queries, k, v, stride_kn, stride_vn, 0, length_k, scale, rows,
        GROUP, HEAD_DIM, BLOCK_D, BLOCK_N, not EVEN, False,
    )  # fmt: skip
    if k_text is not None:
        k_text = key_base(k_text, sample, begin, head, 0, stride_kt, stride_kth)
        v_text = key_base(v_text, sample, begin, head, 0, stride_vt, stride_vth)
        last = tl.minimum((row + BLOCK_M - 1) // GROUP + 1, length)
        acc, top, total = _attend(
            acc, top, total, queries, k_text, v_text, stride_kt, stride_vt, 0, last, scale, rows,
            GROUP, HEAD_DIM, BLOCK_D, BLOCK_N, True, True,
        )  # fmt: skip

    # Without any key: out = 0 / 1, lse = -inf + 0.
    total = tl.where(total == 0, 1.0, total)
    out = row_base(out, begin, row, head, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP)
    offsets = row_offsets(rows, row, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP)
    store(out, offsets, inside, acc / total[:, None], HEAD_DIM, BLOCK_D)
    lse = row_base(lse, begin, row, head, heads * GROUP, 1, GROUP)
    tl.store(lse + row_offsets(rows, row, heads * GROUP, 1, GROUP), top + tl.log2(total), mask=inside)


def forward(problem: Problem) -> tuple[Tensor, Tensor]:
    """out [T, Hq, D] in q's dtype, and lse [T, Hq], fp32, in base 2."""
    q, k, v, k_text, v_text, cu_q, cu_k, scale, _ = problem
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    tile = problem.tile("forward")
    with ready("attention.forward", q.device, q.dtype):
        if q.numel():
            forward_kernel[problem.row_grid(tile.rows)](
                q, k, v, k_text, v_text, out, lse, cu_q, cu_k,
                *q.stride()[:2], *problem.key_strides(), *problem.text_strides(),
                q.shape[0], problem.keys, problem.batch, scale * LOG2_E,
                **problem.sizes(tile), EVEN=problem.even(tile), num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
    return out, lse
