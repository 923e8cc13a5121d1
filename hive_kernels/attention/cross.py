"""The attention of hierarchical cross-attention: packed text reads its own sample's visual tokens."""

from typing import Literal, overload

from torch import Tensor

from hive_kernels import backends
from hive_kernels.attention.arguments import check_groups, check_keys
from hive_kernels.validation import check_cu_seqlens, check_float, check_tensor, invalid, under_autocast


@overload
def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    *,
    max_seqlen_q: int | None = ...,
    cu_seqlens_k: Tensor | None = ...,
    max_seqlen_k: int | None = ...,
    scale: float | None = ...,
    backend: str = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...
@overload
def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    *,
    max_seqlen_q: int | None = ...,
    cu_seqlens_k: Tensor | None = ...,
    max_seqlen_k: int | None = ...,
    scale: float | None = ...,
    backend: str = ...,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    *,
    max_seqlen_q: int | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_k: int | None = None,
    scale: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale * q k^T) v, each text over all visual tokens of its sample (the paper's section 3.3).

    Args:
        q: text queries [T, Hq, D], packed; fp16, bf16, fp32 or fp64; under torch.autocast cast to its dtype.
        k: visual keys [B, N, Hkv, D] with N >= 1, or packed [Tk, Hkv, D] with ``cu_seqlens_k``; same dtype.
            Query head h reads key head h // (Hq / Hkv).
        v: visual values, shaped as k, same dtype.
        cu_seqlens_q: int32 [B+1], where each sample's text starts, ending with T. Texts may be empty.
        max_seqlen_q: no text has more tokens than this. When None, backend ``torch`` reads it from cu_seqlens_q, which
            synchronises a GPU; ``triton`` and ``cuda`` don't, but then can't use their kernels for short texts. A GPU
            doesn't check it: where a text is longer, its and its image's gradients are right or NaN.
        cu_seqlens_k: int32 [B+1] for packed keys: images of different sizes, several a text, or none.
        max_seqlen_k: no image has more tokens than this; as max_seqlen_q, and only with cu_seqlens_k.
        scale: factor on the scores; D ** -0.5 when None.
        backend: see :func:`hive_kernels.resolve`.
        return_lse: whether to return the log-sum-exp too.

    Returns:
        out [T, Hq, D] in q's dtype; with ``return_lse`` also lse [T, Hq], the natural logarithm of the sum of
        exp(scale * q k^T), fp32 (fp64 for fp64 inputs), not differentiable. For a text without an image out is 0,
        lse is -inf and the gradient is 0.

    Raises:
        ValueError: a shape, dtype or device doesn't fit; on a CPU also offsets that don't.
    """
    check_tensor("q", q, ("T", "Hq", "D"), q.device)
    total, heads, dim = q.shape
    check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, total, max_seqlen_q, q.device)
    check_keys(k, ("Hkv", dim), cu_seqlens_q, cu_seqlens_k, max_seqlen_k, name="k", suffix="k", texts="cu_seqlens_q")
    if cu_seqlens_k is None and k.shape[1] == 0:
        raise invalid("k.shape[1]", 0, "N >= 1; texts without an image need packed keys with cu_seqlens_k")
    check_tensor("v", v, tuple(k.shape), q.device)
    check_groups("k", k, heads)
    q, k, v = under_autocast(q, k, v)
    check_float("q", q)
    check_float("k", k, q.dtype)
    check_float("v", v, q.dtype)
    scale = dim**-0.5 if scale is None else scale
    compute = backends.CROSS_ATTENTION.function(backend, q.device)
    out, lse = compute(q, k, v, cu_seqlens_q, max_seqlen_q, cu_seqlens_k, max_seqlen_k, scale, return_lse)
    if not return_lse:
        return out
    assert lse is not None
    return out, lse
