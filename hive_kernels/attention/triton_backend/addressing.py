"""Addresses of rows, keys and samples in the kernels of packed attention.

Rows: the G query heads that share a key head are consecutive rows, so row r of a sample is its token r // G and head
r % G of the group. A key tile is read once for all of them, and dK, dV sum over the group in registers.
A key segment is either an image's keys, all visible, or the text's, causal (``CAUSAL``); the joint operation reads
both.
"""

import triton
import triton.language as tl


@triton.jit
def locate(slot, cu_seqlens, batch, total, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """A slot's sample, the sample's first token and number of tokens, and the slot's first row in the sample.

    A token is UNIT rows, a slot BLOCK. Sample b has the slots from b + cu_seqlens[b] * UNIT // BLOCK on, which are
    always enough for its rows; so the grid, total * UNIT // BLOCK + batch, is known without synchronising the device.
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
    """A sample's first token and number of tokens; without cu_seqlens every sample has ``total`` of them, from 0."""
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
    """Writes what ``load`` would read, rounded to the dtype that ``base`` points to."""
    d = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (d[None, :] < HEAD_DIM)
    tl.store(base + offsets[:, None] + d[None, :], values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def row_base(base, begin, row, head, stride_token, stride_head, GROUP: tl.constexpr):
    """The address of the token of a sample's packed ``row``, at its group's first head."""
    return base + (begin + row // GROUP).to(tl.int64) * stride_token + head.to(tl.int64) * GROUP * stride_head


@triton.jit
def row_offsets(rows, row, stride_token, stride_head, GROUP: tl.constexpr):
    """The offsets of a tile's rows from row_base of its first ``row``, small enough for 32 bits."""
    return (rows // GROUP - row // GROUP) * stride_token + rows % GROUP * stride_head


@triton.jit
def key_base(base, sample, begin, head, stride_sample, stride_token, stride_head):
    """The address of key ``begin`` of a sample or, with stride_sample 0, of all packed keys."""
    samples = sample.to(tl.int64) * stride_sample
    return base + samples + begin.to(tl.int64) * stride_token + tl.cast(head, tl.int64) * stride_head


@triton.jit
def visible(n, stop, rows, CAUSAL: tl.constexpr, GROUP: tl.constexpr):
    """[rows, keys]: keys that exist and, causal, are not after the row's token."""
    if CAUSAL:
        return (n[None, :] < stop) & (n[None, :] <= (rows // GROUP)[:, None])
    else:
        return (n < stop)[None, :]
