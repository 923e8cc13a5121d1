"""The backward of attention of packed text: two kernels, or one for short captions.

Rows, segments and units as in triton_forward.py. Nothing is added with atomics: every output has one writer, so two runs
agree in every bit. query_gradient_kernel runs first, because it leaves delta for key_gradient_kernel.
"""

import triton
import triton.language as tl

from hive_kernels.cross_attention.triton_forward import load, locate, row_offsets, segment, store, visible


@triton.jit
def _query_gradient(
    dq, q, dout, lse, delta, k, v, stride_kn, stride_vn, start, stop, scale, rows,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """What keys start..stop add to the rows' dQ, before the factor of the scores."""
    for first in range(start, stop, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        keys = load(k, n.to(tl.int64) * stride_kn, n < stop, MASKED, HEAD_DIM, BLOCK_D)
        values = load(v, n.to(tl.int64) * stride_vn, n < stop, MASKED, HEAD_DIM, BLOCK_D)
        scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale
        weights = tl.exp2(scores - lse[:, None])
        if MASKED:
            weights = tl.where(visible(n, stop, rows, CAUSAL, GROUP), weights, 0.0)
        dweights = tl.dot(dout, tl.trans(values), input_precision="ieee")
        dscores = weights * (dweights - delta[:, None])
        dq = tl.dot(dscores.to(keys.dtype), keys, dq, input_precision="ieee")
    return dq


@triton.jit(do_not_specialize=["tokens", "keys", "batch"])
def query_gradient_kernel(
    q, k, v, k_text, v_text, out, dout, lse, delta, dq, cu_seqlens_q, cu_seqlens_k,
    stride_qt, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    stride_kt, stride_kth, stride_vt, stride_vth, stride_ot, stride_oh, tokens, keys, batch, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """dQ of one tile of rows, and delta = sum(out * dout), which key_gradient_kernel reads. Grid as forward_kernel.

    stride_ot, stride_oh: of dout.
    """
    sample, begin, length, row = locate(tl.program_id(0), cu_seqlens_q, batch, tokens, GROUP, BLOCK_M)
    if row >= length * GROUP:
        return
    head, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < length * GROUP
    offsets = row_offsets(rows, begin, stride_qt, stride_qh, GROUP)
    queries = load(q + head * GROUP * stride_qh, offsets, inside, True, HEAD_DIM, BLOCK_D)
    offsets = row_offsets(rows, begin, stride_ot, stride_oh, GROUP)
    cotangent = load(dout + head * GROUP * stride_oh, offsets, inside, True, HEAD_DIM, BLOCK_D)
    offsets = row_offsets(rows, begin, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP)
    result = load(out + head * GROUP * HEAD_DIM, offsets, inside, True, HEAD_DIM, BLOCK_D)
    sums = tl.sum(result.to(tl.float32) * cotangent.to(tl.float32), 1)
    statistics = head * GROUP + row_offsets(rows, begin, heads * GROUP, 1, GROUP)
    tl.store(delta + statistics, sums, mask=inside)
    log_sum = tl.load(lse + statistics, mask=inside, other=float("inf"))  # rows outside weigh exp2(-inf) = 0
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    begin_k, length_k = segment(sample, cu_seqlens_k, keys)
    k += sample.to(tl.int64) * stride_kb + begin_k.to(tl.int64) * stride_kn + head * stride_kh
    v += sample.to(tl.int64) * stride_vb + begin_k.to(tl.int64) * stride_vn + head * stride_vh
    whole = length_k if EVEN else length_k // BLOCK_N * BLOCK_N
    acc = _query_gradient(
        acc, queries, cotangent, log_sum, sums, k, v, stride_kn, stride_vn, 0, whole, scale, rows,
        GROUP, HEAD_DIM, BLOCK_D, BLOCK_N, False, False,
    )  # fmt: skip
    if not EVEN:
        acc = _query_gradient(
            acc, queries, cotangent, log_sum, sums, k, v, stride_kn, stride_vn, whole, length_k, scale, rows,
            GROUP, HEAD_DIM, BLOCK_D, BLOCK_N, True, False,
        )  # fmt: skip
    if k_text is not None:
        k_text += begin.to(tl.int64) * stride_kt + head * stride_kth
        v_text += begin.to(tl.int64) * stride_vt + head * stride_vth
        last = tl.minimum((row + BLOCK_M - 1) // GROUP + 1, length)
        acc = _query_gradient(
            acc, queries, cotangent, log_sum, sums, k_text, v_text, stride_kt, stride_vt, 0, last, scale, rows,
            GROUP, HEAD_DIM, BLOCK_D, BLOCK_N, True, True,
        )  # fmt: skip
    # scale is that of base-2 scores; the gradient's is ln 2 times it.
    store(dq + head * GROUP * HEAD_DIM, offsets, inside, acc * (scale * 0.6931471805599453), HEAD_DIM, BLOCK_D)


@triton.jit(do_not_specialize=["tokens", "keys", "batch", "tiles"])
def key_gradient_kernel(
    q, k, v, dout, lse, delta, dk, dv, cu_seqlens_q, cu_seqlens_k,
    stride_qt, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    stride_ot, stride_oh, tokens, keys, batch, tiles, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """dK and dV of one tile of keys, summed over all rows that see it. Grid (slots of BLOCK_N keys, key heads).

    Without cu_seqlens_k, ``tiles`` slots a sample. CAUSAL: keys are the text's own, and cu_seqlens_k is cu_seqlens_q.
    Scores are computed transposed, [keys, rows], so that no product's result has to be transposed for the next one.
    """
    head, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    if cu_seqlens_k is None:
        sample = tl.program_id(0) // tiles
        key = tl.program_id(0) % tiles * BLOCK_N
        begin_k, length_k = segment(sample, cu_seqlens_k, keys)
    else:
        sample, begin_k, length_k, key = locate(tl.program_id(0), cu_seqlens_k, batch, keys, 1, BLOCK_N)
    if key >= length_k:
        return
    begin, length = segment(sample, cu_seqlens_q, tokens)
    n = key + tl.arange(0, BLOCK_N)
    k += sample.to(tl.int64) * stride_kb + (begin_k + key).to(tl.int64) * stride_kn + head * stride_kh
    v += sample.to(tl.int64) * stride_vb + (begin_k + key).to(tl.int64) * stride_vn + head * stride_vh
    nearby = tl.arange(0, BLOCK_N).to(tl.int64)
    key_tile = load(k, nearby * stride_kn, n < length_k, True, HEAD_DIM, BLOCK_D)
    value_tile = load(v, nearby * stride_vn, n < length_k, True, HEAD_DIM, BLOCK_D)
    q += head * GROUP * stride_qh
    dout += head * GROUP * stride_oh
    dkeys = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dvalues = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for row in range(key * GROUP if CAUSAL else 0, length * GROUP, BLOCK_M):
        rows = row + tl.arange(0, BLOCK_M)
        inside = rows < length * GROUP
        offsets = row_offsets(rows, begin, stride_qt, stride_qh, GROUP)
        queries = load(q, offsets, inside, True, HEAD_DIM, BLOCK_D)
        offsets = row_offsets(rows, begin, stride_ot, stride_oh, GROUP)
        cotangent = load(dout, offsets, inside, True, HEAD_DIM, BLOCK_D)
        statistics = head * GROUP + row_offsets(rows, begin, heads * GROUP, 1, GROUP)
        log_sum = tl.load(lse + statistics, mask=inside, other=float("inf"))
        sums = tl.load(delta + statistics, mask=inside, other=0.0)
        scores = tl.dot(key_tile, tl.trans(queries), input_precision="ieee") * scale
        weights = tl.exp2(scores - log_sum[None, :])
        if CAUSAL:
            weights = tl.where(n[:, None] <= (rows // GROUP)[None, :], weights, 0.0)
        dvalues = tl.dot(weights.to(cotangent.dtype), cotangent, dvalues, input_precision="ieee")
        dweights = tl.dot(value_tile, tl.trans(cotangent), input_precision="ieee")
        dscores = weights * (dweights - sums[None, :])
        dkeys = tl.dot(dscores.to(queries.dtype), queries, dkeys, input_precision="ieee")
    first = begin_k.to(tl.int64) + key
    if cu_seqlens_k is None:
        first += sample.to(tl.int64) * keys
    offsets = ((first + nearby) * heads + head) * HEAD_DIM
    store(dk, offsets, n < length_k, dkeys * (scale * 0.6931471805599453), HEAD_DIM, BLOCK_D)
    store(dv, offsets, n < length_k, dvalues, HEAD_DIM, BLOCK_D)


@triton.jit(do_not_specialize=["tokens", "keys"])
def one_pass_kernel(
    q, k, v, out, dout, lse, dq, dk, dv, cu_seqlens_q, cu_seqlens_k,
    stride_qt, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    stride_ot, stride_oh, tokens, keys, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """All gradients of one sample and key head whose rows fit one tile: five products a key tile instead of seven.

    Grid (samples, key heads). dQ is kept transposed for the same reason as key_gradient_kernel's scores.
    """
    sample, head, heads = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    begin, length = segment(sample, cu_seqlens_q, tokens)
    begin_k, length_k = segment(sample, cu_seqlens_k, keys)
    rows = tl.arange(0, BLOCK_M)
    inside = rows < length * GROUP
    offsets = row_offsets(rows, begin, stride_qt, stride_qh, GROUP)
    queries = load(q + head * GROUP * stride_qh, offsets, inside, True, HEAD_DIM, BLOCK_D)
    offsets = row_offsets(rows, begin, stride_ot, stride_oh, GROUP)
    cotangent = load(dout + head * GROUP * stride_oh, offsets, inside, True, HEAD_DIM, BLOCK_D)
    offsets = row_offsets(rows, begin, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP)
    result = load(out + head * GROUP * HEAD_DIM, offsets, inside, True, HEAD_DIM, BLOCK_D)
    sums = tl.sum(result.to(tl.float32) * cotangent.to(tl.float32), 1)
    statistics = head * GROUP + row_offsets(rows, begin, heads * GROUP, 1, GROUP)
    log_sum = tl.load(lse + statistics, mask=inside, other=float("inf"))  # rows outside weigh exp2(-inf) = 0
    acc = tl.zeros([BLOCK_D, BLOCK_M], tl.float32)

    k += sample.to(tl.int64) * stride_kb + begin_k.to(tl.int64) * stride_kn + head * stride_kh
    v += sample.to(tl.int64) * stride_vb + begin_k.to(tl.int64) * stride_vn + head * stride_vh
    first_k = begin_k.to(tl.int64)
    if cu_seqlens_k is None:
        first_k += sample.to(tl.int64) * keys
    for first in range(0, length_k, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        key_tile = load(k, n.to(tl.int64) * stride_kn, n < length_k, True, HEAD_DIM, BLOCK_D)
        value_tile = load(v, n.to(tl.int64) * stride_vn, n < length_k, True, HEAD_DIM, BLOCK_D)
        scores = tl.dot(key_tile, tl.trans(queries), input_precision="ieee") * scale
        # Keys that don't exist must not reach dQ: their scores are 0, not -inf.
        weights = tl.where((n < length_k)[:, None], tl.exp2(scores - log_sum[None, :]), 0.0)
        dvalues = tl.dot(weights.to(cotangent.dtype), cotangent, input_precision="ieee")
        dweights = tl.dot(value_tile, tl.trans(cotangent), input_precision="ieee")
        dscores = (weights * (dweights - sums[None, :])).to(queries.dtype)
        dkeys = tl.dot(dscores, queries, input_precision="ieee")
        acc = tl.dot(tl.trans(key_tile), dscores, acc, input_precision="ieee")
        to = ((first_k + n) * heads + head) * HEAD_DIM
        store(dk, to, n < length_k, dkeys * (scale * 0.6931471805599453), HEAD_DIM, BLOCK_D)
        store(dv, to, n < length_k, dvalues, HEAD_DIM, BLOCK_D)
    d = tl.arange(0, BLOCK_D)
    acc = (acc * (scale * 0.6931471805599453)).to(dq.dtype.element_ty)
    to = dq + head * GROUP * HEAD_DIM + offsets[None, :] + d[:, None]
    tl.store(to, acc, mask=inside[None, :] & (d[:, None] < HEAD_DIM))
