"""Attention of packed text over images, and over images and text at once: the forward kernel, and what all share.

Rows: the G query heads that share a key head are packed below each other, so row r of a sample is its token r // G and,
of the group, head r % G. A key tile is read once for all of them, and dK, dV sum over the group in registers.
Scores and log-sum-exp are in base 2 inside. A key segment is either an image's keys, all visible, or the text's own,
causal (``CAUSAL``); the joint operation walks both. triton_kernels.py launches.
"""

import triton
import triton.language as tl


@triton.jit
def locate(slot, cu_seqlens, batch, total, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """Which rows a slot covers: its sample, that sample's first token and tokens, and the slot's first row there.

    A token is UNIT rows, a slot BLOCK. Sample b owns the slots from b + cu_seqlens[b] * UNIT // BLOCK on, which are
    always enough for its rows; so the grid, total * UNIT // BLOCK + batch, is known without asking the device.
    Offsets are clamped to the tensor: wrong ones give wrong results, never an access outside.
    """
    before = 0
    for first in range(0, batch, 256):
        b = first + tl.arange(0, 256)
        start = tl.load(cu_seqlens + b, mask=b < batch, other=0).to(tl.int64)
        before += tl.sum(((b < batch) & (b + start * UNIT // BLOCK <= slot)).to(tl.int32))
    sample = tl.maximum(before - 1, 0)
    begin, length = segment(sample, cu_seqlens, total)
    row = (slot - sample - begin.to(tl.int64) * UNIT // BLOCK) * BLOCK
    return sample, begin, length, tl.maximum(row, 0).to(tl.int32)


@triton.jit
def segment(sample, cu_seqlens, total):
    """First token and tokens of a sample; without cu_seqlens every sample has ``total`` of its own."""
    if cu_seqlens is None:
        begin = tl.full([], 0, tl.int32)
        length = total
    else:
        begin = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample), 0), total)
        length = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample + 1), begin), total) - begin
    return begin, length


@triton.jit
def load(base, offsets, inside, MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Vectors at base + offsets [R] -> [R, BLOCK_D], zeros outside and above HEAD_DIM."""
    d = tl.arange(0, BLOCK_D)
    pointers = base + offsets[:, None] + d[None, :]
    if MASKED and HEAD_DIM < BLOCK_D:
        return tl.load(pointers, mask=inside[:, None] & (d[None, :] < HEAD_DIM), other=0.0)
    elif MASKED:
        return tl.load(pointers, mask=inside[:, None], other=0.0)
    elif HEAD_DIM < BLOCK_D:
        return tl.load(pointers, mask=d[None, :] < HEAD_DIM, other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def store(base, offsets, inside, values, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """The inverse of load, rounded to what ``base`` points at."""
    d = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (d[None, :] < HEAD_DIM)
    tl.store(base + offsets[:, None] + d[None, :], values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def row_base(base, begin, row, head, stride_token, stride_head, GROUP: tl.constexpr):
    """Where the token of a sample's packed ``row`` lies, at its group's first head."""
    return base + (begin + row // GROUP).to(tl.int64) * stride_token + head.to(tl.int64) * GROUP * stride_head


@triton.jit
def row_offsets(rows, row, stride_token, stride_head, GROUP: tl.constexpr):
    """From row_base of the tile's first ``row`` to each of its rows. Small: 32 bits are enough."""
    return (rows // GROUP - row // GROUP) * stride_token + rows % GROUP * stride_head


@triton.jit
def key_base(base, sample, begin, head, stride_sample, stride_token, stride_head):
    """Where a sample's keys start."""
    samples = sample.to(tl.int64) * stride_sample
    return base + samples + begin.to(tl.int64) * stride_token + tl.cast(head, tl.int64) * stride_head


@triton.jit
def visible(n, stop, rows, CAUSAL: tl.constexpr, GROUP: tl.constexpr):
    """[rows, keys]: keys that exist and, causal, are not after the row's token."""
    if CAUSAL:
        return (n[None, :] < stop) & (n[None, :] <= (rows // GROUP)[:, None])
    else:
        return (n < stop)[None, :]


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
