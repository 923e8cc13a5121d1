"""Hierarchical cross-attention's inner operation: packed text reads its own sample's visual tokens."""

from typing import Literal, overload

from torch import Tensor

from hive_kernels.backends import resolve
from hive_kernels.cross_attention import cuda_backend, operators, reference, torch_backend, triton_backend
from hive_kernels.packing import longest
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
            synchronises a GPU; ``triton`` and ``cuda`` do without, but know no short captions then.
        cu_seqlens_k: int32 [B+1] for packed keys: images of different sizes, several a text, or none.
        max_seqlen_k: the same as max_seqlen_q, of cu_seqlens_k; only with it.
        scale: factor on the scores; D ** -0.5 when None.
        backend: see :func:`hive_kernels.resolve`.
        return_lse: whether to return the log-sum-exp too.

    Returns:
        out [T, Hq, D] in q's dtype; with ``return_lse`` also lse [T, Hq], the natural logarithm of the sum of
        exp(scale * q k^T), fp32 (fp64 for fp64 inputs), not differentiable. A text without an image reads 0,
        has lse = -inf and gets gradient 0.

    Raises:
        ValueError: a shape, dtype or device doesn't fit; on a CPU also offsets that don't.
    """
    check_tensor("q", q, ("T", "Hq", "D"), q.device)
    total, heads, dim = q.shape
    check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, total, max_seqlen_q, q.device)
    if cu_seqlens_k is None:
        check_tensor("k", k, (cu_seqlens_q.shape[0] - 1, "N", "Hkv", dim), q.device)
        if k.shape[1] == 0:
            raise invalid("k.shape[1]", 0, "N >= 1; texts without an image need packed keys with cu_seqlens_k")
        if max_seqlen_k is not None:
            raise invalid("max_seqlen_k", max_seqlen_k, "None without cu_seqlens_k")
    else:
        check_tensor("k", k, ("Tk", "Hkv", dim), q.device)
        check_cu_seqlens("cu_seqlens_k", cu_seqlens_k, k.shape[0], max_seqlen_k, q.device)
        if cu_seqlens_k.shape != cu_seqlens_q.shape:
            shape = tuple(cu_seqlens_q.shape)
            raise invalid("cu_seqlens_k.shape", tuple(cu_seqlens_k.shape), f"{shape}, as cu_seqlens_q has")
    check_tensor("v", v, tuple(k.shape), q.device)
    if k.shape[-2] == 0 or heads % k.shape[-2]:
        raise invalid(f"k.shape[{k.dim() - 2}]", k.shape[-2], f"a divisor of the {heads} query heads")
    q, k, v = under_autocast(q, k, v)
    check_float("q", q)
    check_float("k", k, q.dtype)
    check_float("v", v, q.dtype)
    scale = dim**-0.5 if scale is None else scale
    chosen = resolve(backend, q.device)
    if chosen == "reference":
        out, lse = reference.cross_attention(q, k, v, cu_seqlens_q, cu_seqlens_k, scale)
        return (out, lse.detach()) if return_lse else out
    if chosen in ("triton", "cuda"):
        fused = triton_backend if chosen == "triton" else cuda_backend
        bound = total if max_seqlen_q is None else max_seqlen_q
        fused.check_served(q)
        return operators.cross_attention(
            fused.NAMESPACE, q, k, v, cu_seqlens_q, cu_seqlens_k, scale, bound, return_lse
        )
    if max_seqlen_q is None:
        max_seqlen_q = longest("max_seqlen_q", cu_seqlens_q)
    texts, images = torch_backend.Segments(cu_seqlens_q, max_seqlen_q), None
    if cu_seqlens_k is not None:
        if max_seqlen_k is None:
            max_seqlen_k = longest("max_seqlen_k", cu_seqlens_k)
        images = torch_backend.Segments(cu_seqlens_k, max_seqlen_k)
    out = torch_backend.cross_attention(q, k, v, texts, images, scale)
    return (out, torch_backend.log_sum_exp(q, k, texts, images, scale)) if return_lse else out
