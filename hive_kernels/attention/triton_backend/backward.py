"""The backward pass of attention of packed text: two kernels, or one for short captions.

Rows, segments and units as in forward.py and addressing.py. Nothing is added with atomics: every output has one writer,
so two runs agree in every bit. query_gradient_kernel runs first, because it leaves delta for key_gradient_kernel.
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
from hive_kernels.attention.triton_backend.problem import LOG2_E, Problem, addressable
from hive_kernels.launch import ready


@triton.jit
def _query_gradient(
    dq, q, dout, lse, delta, k, v, stride_kn, stride_vn, start, stop, scale, rows,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """What keys start..stop add to the rows' dQ, before the factor of the scores."""
    nearby = tl.arange(0, BLOCK_N)
    for first in range(start, stop, BLOCK_N):
        n = first + nearby
        keys = load(k + tl.cast(first, tl.int64) * stride_kn, nearby * stride_kn, n < stop, MASKED, HEAD_DIM, BLOCK_D)
        values = load(v + tl.cast(first, tl.int64) * stride_vn, nearby * stride_vn, n < stop, MASKED, HEAD_DIM, BLOCK_D)
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
    head, heads = tl.program_id(1), tl.num_programs(1)
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < length * GROUP
    q = row_base(q, begin, row, head, stride_qt, stride_qh, GROUP)
    queries = load(q, row_offsets(rows, row, stride_qt, stride_qh, GROUP), inside, True, HEAD_DIM, BLOCK_D)
    dout = row_base(dout, begin, row, head, stride_ot, stride_oh, GROUP)
    cotangent = load(dout, row_offsets(rows, row, stride_ot, stride_oh, GROUP), inside, True, HEAD_DIM, BLOCK_D)
    # out and dq, lse and delta are contiguous.
    out = row_base(out, begin, row, head, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP)
    offsets = row_offsets(rows, row, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP)
    result = load(out, offsets, inside, True, HEAD_DIM, BLOCK_D)
    dq = row_base(dq, begin, row, head, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP)
    sums = tl.sum(result.to(tl.float32) * cotangent.to(tl.float32), 1)
    statistics = row_offsets(rows, row, heads * GROUP, 1, GROUP)
    lse = row_base(lse, begin, row, head, heads * GROUP, 1, GROUP)
    log_sum = tl.load(lse + statistics, mask=inside, other=float("inf"))  # rows outside weigh exp2(-inf) = 0
    delta = row_base(delta, begin, row, head, heads * GROUP, 1, GROUP)
    tl.store(delta + statistics, sums, mask=inside)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    begin_k, length_k = segment(sample, cu_seqlens_k, keys)
    k = key_base(k, sample, begin_k, head, stride_kb, stride_kn, stride_kh)
    v = key_base(v, sample, begin_k, head, stride_vb, stride_vn, stride_vh)
    acc = _query_gradient(
        acc, queries, cotangent, log_sum, sums, k, v, stride_kn, stride_vn, 0, length_k, scale, rows,
        GROUP, HEAD_DIM, BLOCK_D, BLOCK_N, not EVEN, False,
    )  # fmt: skip
    if k_text is not None:
        k_text = key_base(k_text, sample, begin, head, 0, stride_kt, stride_kth)
        v_text = key_base(v_text, sample, begin, head, 0, stride_vt, stride_vth)
        last = tl.minimum((row + BLOCK_M - 1) // GROUP + 1, length)
        acc = _query_gradient(
            acc, queries, cotangent, log_sum, sums, k_text, v_text, stride_kt, stride_vt, 0, last, scale, rows,
            GROUP, HEAD_DIM, BLOCK_D, BLOCK_N, True, True,
        )  # fmt: skip
    # scale is that of base-2 scores; the gradient's is ln 2 times it.
    store(dq, offsets, inside, acc * (scale * 0.6931471805599453), HEAD_DIM, BLOCK_D)


@triton.jit
def gradient_base(sample, begin, key, head, heads, keys, DENSE: tl.constexpr, HEAD_DIM: tl.constexpr):
    """The offset of the gradient of a sample's ``key`` in a contiguous [B, keys, heads, HEAD_DIM], or packed."""
    first = begin.to(tl.int64) + key
    if DENSE:
        first += sample.to(tl.int64) * keys
    return (first * heads + head) * HEAD_DIM


@triton.jit(do_not_specialize=["tokens", "keys", "batch", "tiles"])
def key_gradient_kernel(
    q, k, v, dout, lse, delta, dk, dv, cu_seqlens_q, cu_seqlens_k,
    stride_qt, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    stride_ot, stride_oh, tokens, keys, batch, tiles, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """dK and dV of one tile of keys, summed over all rows that see it. Grid (slots of BLOCK_N keys, key heads).

    Without cu_seqlens_k a sample has ``tiles`` slots. CAUSAL: keys are the text's, and cu_seqlens_k is cu_seqlens_q.
    Scores are computed transposed, [keys, rows], so that no product's result has to be transposed for the next one.
    """
    head, heads = tl.program_id(1), tl.num_programs(1)
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
    nearby = tl.arange(0, BLOCK_N)
    k = key_base(k, sample, begin_k + key, head, stride_kb, stride_kn, stride_kh)
    v = key_base(v, sample, begin_k + key, head, stride_vb, stride_vn, stride_vh)
    key_tile = load(k, nearby * stride_kn, n < length_k, True, HEAD_DIM, BLOCK_D)
    value_tile = load(v, nearby * stride_vn, n < length_k, True, HEAD_DIM, BLOCK_D)
    dkeys = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dvalues = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for row in range(key * GROUP if CAUSAL else 0, length * GROUP, BLOCK_M):
        rows = row + tl.arange(0, BLOCK_M)
        inside = rows < length * GROUP
        q_tile = row_base(q, begin, row, head, stride_qt, stride_qh, GROUP)
        queries = load(q_tile, row_offsets(rows, row, stride_qt, stride_qh, GROUP), inside, True, HEAD_DIM, BLOCK_D)
        dout_tile = row_base(dout, begin, row, head, stride_ot, stride_oh, GROUP)
        offsets = row_offsets(rows, row, stride_ot, stride_oh, GROUP)
        cotangent = load(dout_tile, offsets, inside, True, HEAD_DIM, BLOCK_D)
        statistics = row_offsets(rows, row, heads * GROUP, 1, GROUP)
        log_sum = row_base(lse, begin, row, head, heads * GROUP, 1, GROUP)
        log_sum = tl.load(log_sum + statistics, mask=inside, other=float("inf"))
        sums = row_base(delta, begin, row, head, heads * GROUP, 1, GROUP)
        sums = tl.load(sums + statistics, mask=inside, other=0.0)
        scores = tl.dot(key_tile, tl.trans(queries), input_precision="ieee") * scale
        weights = tl.exp2(scores - log_sum[None, :])
        if CAUSAL:
            weights = tl.where(n[:, None] <= (rows // GROUP)[None, :], weights, 0.0)
        dvalues = tl.dot(weights.to(cotangent.dtype), cotangent, dvalues, input_precision="ieee")
        dweights = tl.dot(value_tile, tl.trans(cotangent), input_precision="ieee")
        dscores = weights * (dweights - sums[None, :])
        dkeys = tl.dot(dscores.to(queries.dtype), queries, dkeys, input_precision="ieee")
    to = gradient_base(sample, begin_k, key, head, heads, keys, cu_seqlens_k is None, HEAD_DIM)
    offsets = nearby * heads * HEAD_DIM
    store(dk + to, offsets, n < length_k, dkeys * (scale * 0.6931471805599453), HEAD_DIM, BLOCK_D)
    store(dv + to, offsets, n < length_k, dvalues, HEAD_DIM, BLOCK_D)


@triton.jit(do_not_specialize=["tokens", "keys"])
def one_pass_kernel(
    q, k, v, out, dout, lse, dq, dk, dv, cu_seqlens_q, cu_seqlens_k,
    stride_qt, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    stride_ot, stride_oh, tokens, keys, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """All gradients of one sample and key head whose rows fit one tile: five products per key tile instead of seven.

    Grid (samples, key heads). dQ is kept transposed for the same reason as key_gradient_kernel's scores. A sample whose
    rows don't fit, because the caller's bound is wrong, gets NaN as all of its gradients.
    """
    sample, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    begin, length = segment(sample, cu_seqlens_q, tokens)
    begin_k, length_k = segment(sample, cu_seqlens_k, keys)
    rows = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    for row in range(BLOCK_M, length * GROUP):
        beyond = row_base(dq, begin, row, head, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP) + row % GROUP * HEAD_DIM
        tl.store(beyond + d, float("nan"), mask=d < HEAD_DIM)
    inside = rows < length * GROUP
    q = row_base(q, begin, 0, head, stride_qt, stride_qh, GROUP)
    queries = load(q, row_offsets(rows, 0, stride_qt, stride_qh, GROUP), inside, True, HEAD_DIM, BLOCK_D)
    dout = row_base(dout, begin, 0, head, stride_ot, stride_oh, GROUP)
    cotangent = load(dout, row_offsets(rows, 0, stride_ot, stride_oh, GROUP), inside, True, HEAD_DIM, BLOCK_D)
    # out and dq, lse and delta are contiguous.
    out = row_base(out, begin, 0, head, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP)
    offsets = row_offsets(rows, 0, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP)
    result = load(out, offsets, inside, True, HEAD_DIM, BLOCK_D)
    dq = row_base(dq, begin, 0, head, heads * GROUP * HEAD_DIM, HEAD_DIM, GROUP)
    sums = tl.sum(result.to(tl.float32) * cotangent.to(tl.float32), 1)
    statistics = row_offsets(rows, 0, heads * GROUP, 1, GROUP)
    lse = row_base(lse, begin, 0, head, heads * GROUP, 1, GROUP)
    log_sum = tl.load(lse + statistics, mask=inside, other=float("inf"))  # rows outside weigh exp2(-inf) = 0
    log_sum = tl.where(length * GROUP <= BLOCK_M, log_sum, float("nan"))
    acc = tl.zeros([BLOCK_D, BLOCK_M], tl.float32)

    k = key_base(k, sample, begin_k, head, stride_kb, stride_kn, stride_kh)
    v = key_base(v, sample, begin_k, head, stride_vb, stride_vn, stride_vh)
    nearby = tl.arange(0, BLOCK_N)
    for first in range(0, length_k, BLOCK_N):
        n = first + nearby
        k_tile = k + tl.cast(first, tl.int64) * stride_kn
        v_tile = v + tl.cast(first, tl.int64) * stride_vn
        key_tile = load(k_tile, nearby * stride_kn, n < length_k, True, HEAD_DIM, BLOCK_D)
        value_tile = load(v_tile, nearby * stride_vn, n < length_k, True, HEAD_DIM, BLOCK_D)
        scores = tl.dot(key_tile, tl.trans(queries), input_precision="ieee") * scale
        # Keys that don't exist must not reach dQ: their scores are 0, not -inf.
        weights = tl.where((n < length_k)[:, None], tl.exp2(scores - log_sum[None, :]), 0.0)
        dvalues = tl.dot(weights.to(cotangent.dtype), cotangent, input_precision="ieee")
        dweights = tl.dot(value_tile, tl.trans(cotangent), input_precision="ieee")
        dscores = (weights * (dweights - sums[None, :])).to(queries.dtype)
        dkeys = tl.dot(dscores, queries, input_precision="ieee")
        acc = tl.dot(tl.trans(key_tile), dscores, acc, input_precision="ieee")
        to = gradient_base(sample, begin_k, first, head, heads, keys, cu_seqlens_k is None, HEAD_DIM)
        offsets_k = nearby * heads * HEAD_DIM
        store(dk + to, offsets_k, n < length_k, dkeys * (scale * 0.6931471805599453), HEAD_DIM, BLOCK_D)
        store(dv + to, offsets_k, n < length_k, dvalues, HEAD_DIM, BLOCK_D)
    acc = (acc * (scale * 0.6931471805599453)).to(dq.dtype.element_ty)
    tl.store(dq + offsets[None, :] + d[:, None], acc, mask=inside[None, :] & (d[:, None] < HEAD_DIM))


def backward(problem: Problem, out: Tensor, lse: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
    """dq, then dk and dv of the text's keys, for the joint operation, and of the images'; contiguous.

    Keys that no row sees get 0.
    """
    q, k, v, k_text, v_text, cu_q, *_ = problem
    out, lse, dout = out.contiguous(), lse.contiguous(), addressable(dout)
    inputs = [x for x in (q, k_text, v_text, k, v) if x is not None]
    gradients = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs]
    dq, *text, dk, dv = gradients
    if k_text is None and k.numel() and 0 < problem.rows <= problem.tile("one_pass").rows:
        one_pass(problem, out, lse, dout, dq, dk, dv)
        return tuple(gradients)
    delta = query_gradient(problem, out, lse, dout, dq)
    key_gradient(problem, lse, dout, delta, dk, dv)
    if k_text is not None and v_text is not None:
        over_text = problem._replace(k=k_text, v=v_text, cu_seqlens_k=cu_q)
        key_gradient(over_text, lse, dout, delta, text[0], text[1], causal=True)
    return tuple(gradients)


def one_pass(problem: Problem, out: Tensor, lse: Tensor, dout: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> None:
    """Fills dq, dk and dv; all rows of a sample must fit the tile."""
    q, k, v, _, _, cu_q, cu_k, scale, _ = problem
    tile = problem.tile("one_pass")
    with ready("attention.backward", q.device, q.dtype):
        one_pass_kernel[(problem.batch, k.shape[-2])](
            q, k, v, out, dout, lse, dq, dk, dv, cu_q, cu_k,
            *q.stride()[:2], *problem.key_strides(), *dout.stride()[:2], q.shape[0], problem.keys, scale * LOG2_E,
            **problem.sizes(tile), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip


def query_gradient(problem: Problem, out: Tensor, lse: Tensor, dout: Tensor, dq: Tensor) -> Tensor:
    """Fills dq; returns delta [T, Hq] = sum(out * dout), fp32."""
    q, k, v, k_text, v_text, cu_q, cu_k, scale, _ = problem
    delta = torch.empty(lse.shape, dtype=lse.dtype, device=lse.device)
    tile = problem.tile("query_gradient")
    if q.numel():
        with ready("attention.query_gradient", q.device, q.dtype):
            query_gradient_kernel[problem.row_grid(tile.rows)](
                q, k, v, k_text, v_text, out, dout, lse, delta, dq, cu_q, cu_k,
                *q.stride()[:2], *problem.key_strides(), *problem.text_strides(), *dout.stride()[:2],
                q.shape[0], problem.keys, problem.batch, scale * LOG2_E,
                **problem.sizes(tile), EVEN=problem.even(tile), num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
    return delta


def key_gradient(
    problem: Problem, lse: Tensor, dout: Tensor, delta: Tensor, dk: Tensor, dv: Tensor, causal: bool = False
) -> None:
    """Fills dk and dv of the problem's k and v; ``causal`` when they are the text's."""
    q, k, v, _, _, cu_q, cu_k, scale, _ = problem
    tile = problem.tile("key_gradient")
    slots = -(-problem.keys // tile.keys)
    grid = (problem.batch * slots if cu_k is None else problem.keys // tile.keys + problem.batch, k.shape[-2])
    if k.numel():
        with ready("attention.key_gradient", q.device, q.dtype):
            key_gradient_kernel[grid](
                q, k, v, dout, lse, delta, dk, dv, cu_q, cu_k,
                *q.stride()[:2], *problem.key_strides(), *dout.stride()[:2],
                q.shape[0], problem.keys, problem.batch, slots, scale * LOG2_E,
                **problem.sizes(tile), CAUSAL=causal, num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
