"""Attention maps of chosen tokens, from the log-sum-exp that the forward pass returned."""

import torch
from torch import Tensor

from hive_kernels import backends
from hive_kernels.attention.arguments import check_groups, check_keys
from hive_kernels.packing import longest, sample_of_token
from hive_kernels.validation import check_cu_seqlens, check_float, check_tensor, invalid


@torch.no_grad()
def cross_attention_weights(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    cu_seqlens_q: Tensor,
    *,
    tokens: Tensor,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_k: int | None = None,
    scale: float | None = None,
    head_mean: bool = False,
    backend: str = "auto",
) -> Tensor:
    """exp(scale * q k^T - lse): how much each chosen token reads from each visual token of its sample.

    Args:
        q: text queries [T, Hq, D], packed; fp16, bf16, fp32 or fp64, as they went into cross_attention.
        k: visual keys [B, N, Hkv, D], or packed [Tk, Hkv, D] with ``cu_seqlens_k``; same dtype.
        lse: [T, Hq], what cross_attention returned with ``return_lse``.
        cu_seqlens_q: int32 [B+1], where each sample's text starts, ending with T.
        tokens: int64 [R], the packed positions of the tokens whose map is wanted; any order, repeats allowed.
        cu_seqlens_k: int32 [B+1] for packed keys.
        max_seqlen_k: no image has more keys than this; only with cu_seqlens_k. When None, it is computed from
            cu_seqlens_k, which synchronises a GPU.
        scale: factor on the scores; D ** -0.5 when None.
        head_mean: whether to average over the query heads.
        backend: see :func:`hive_kernels.resolve`.

    Returns:
        [R, Hq, N], or [R, N] with ``head_mean``; N = max_seqlen_k for packed keys, 0 after an image's last key.
        fp32 (fp64 for fp64), not differentiable. Rows sum to 1, or to 0 for a text without an image.

    Raises:
        ValueError: a shape, dtype or device doesn't fit; on a CPU also offsets and tokens that don't.
    """
    check_tensor("q", q, ("T", "Hq", "D"), q.device)
    total, heads, dim = q.shape
    check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, total, None, q.device)
    check_keys(k, ("Hkv", dim), cu_seqlens_q, cu_seqlens_k, max_seqlen_k, name="k", suffix="k", texts="cu_seqlens_q")
    check_groups("k", k, heads)
    check_float("q", q)
    check_float("k", k, q.dtype)
    check_tensor("lse", lse, (total, heads), q.device)
    check_float("lse", lse, torch.promote_types(q.dtype, torch.float32))
    check_tensor("tokens", tokens, ("R",), q.device)
    if tokens.dtype != torch.int64:
        raise invalid("tokens.dtype", tokens.dtype, "torch.int64")
    if tokens.device.type == "cpu" and type(tokens) is Tensor and not torch.compiler.is_compiling():
        outside = tokens[(tokens < 0) | (tokens >= total)].tolist()
        if outside:
            raise invalid("tokens", f"with {outside[0]}", f"0 to {total - 1}, the packed tokens")
    scale = dim**-0.5 if scale is None else float(scale)
    width = k.shape[-3]
    if cu_seqlens_k is not None:
        width = longest("max_seqlen_k", cu_seqlens_k) if max_seqlen_k is None else max_seqlen_k
    samples = sample_of_token(cu_seqlens_q, total)[tokens]
    compute = backends.CROSS_ATTENTION_WEIGHTS.function(backend, q.device)
    return compute(q, k, lse, tokens, samples, cu_seqlens_k, scale, width, head_mean)
