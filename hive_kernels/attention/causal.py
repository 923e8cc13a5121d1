"""Causal self-attention over packed text."""

from torch import Tensor

from hive_kernels import backends
from hive_kernels.attention.arguments import check_groups
from hive_kernels.validation import check_cu_seqlens, check_float, check_tensor, invalid, under_autocast


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    *,
    max_seqlen: int,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """softmax(scale * q k^T + causal mask) v within each sample of a packed batch.

    Args:
        q: queries [T, Hq, D], fp16, bf16, fp32 or fp64; under torch.autocast cast to its dtype, as SDPA does.
        k: keys [T, Hkv, D], same dtype. Query head h reads key head h // (Hq / Hkv).
        v: values [T, Hkv, D], same dtype.
        cu_seqlens: int32 [B+1], where each sample's tokens start, ending with T. Samples may be empty.
        max_seqlen: no sample has more tokens than this host integer.
        scale: factor on the scores; D ** -0.5 when None.
        backend: see :func:`hive_kernels.resolve`.

    Returns:
        [T, Hq, D] in q's dtype.

    Raises:
        ValueError: a shape, dtype or device doesn't fit; on a CPU also offsets that don't.
    """
    check_tensor("q", q, ("T", "Hq", "D"), q.device)
    total, heads, dim = q.shape
    check_tensor("k", k, (total, "Hkv", dim), q.device)
    check_tensor("v", v, tuple(k.shape), q.device)
    check_groups("k", k, heads)
    if max_seqlen is None:
        raise invalid("max_seqlen", None, "an int >= 0")
    check_cu_seqlens("cu_seqlens", cu_seqlens, total, max_seqlen, q.device)
    q, k, v = under_autocast(q, k, v)
    check_float("q", q)
    check_float("k", k, q.dtype)
    check_float("v", v, q.dtype)
    scale = dim**-0.5 if scale is None else scale
    return backends.CAUSAL_ATTENTION.function(backend, q.device)(q, k, v, cu_seqlens, max_seqlen, scale)
