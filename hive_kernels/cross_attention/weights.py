"""Attention maps of chosen tokens, from the log-sum-exp that the forward pass left."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hive_kernels.backends import resolve
from hive_kernels.cross_attention.triton_backend import check_served
from hive_kernels.packing import longest, sample_of_token
from hive_kernels.validation import check_cu_seqlens, check_float, check_tensor, invalid, without_autocast

_LIBRARY = torch.library.Library("hive_kernels", "FRAGMENT")
_LIBRARY.define(
    "cross_attention_weights(Tensor q, Tensor k, Tensor lse, Tensor tokens, Tensor samples, Tensor? cu_seqlens_k, "
    "float scale, SymInt width, bool head_mean) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


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
        max_seqlen_k: no image has more keys than this; only with cu_seqlens_k. When None it is read from it, which
            synchronises a GPU.
        scale: factor on the scores; D ** -0.5 when None.
        head_mean: whether to average over the query heads.
        backend: see :func:`hive_kernels.resolve`.

    Returns:
        [R, Hq, N], or [R, N] with ``head_mean``; N = max_seqlen_k for packed keys, 0 after an image's last key.
        fp32 (fp64 for fp64), not differentiable. Rows sum to 1, and to 0 for a text without an image.

    Raises:
        ValueError: a shape, dtype or device doesn't fit; on a CPU also offsets and tokens that don't.
    """
    check_tensor("q", q, ("T", "Hq", "D"), q.device)
    total, heads, dim = q.shape
    check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, total, None, q.device)
    if cu_seqlens_k is None:
        check_tensor("k", k, (cu_seqlens_q.shape[0] - 1, "N", "Hkv", dim), q.device)
        if max_seqlen_k is not None:
            raise invalid("max_seqlen_k", max_seqlen_k, "None without cu_seqlens_k")
    else:
        check_tensor("k", k, ("Tk", "Hkv", dim), q.device)
        check_cu_seqlens("cu_seqlens_k", cu_seqlens_k, k.shape[0], max_seqlen_k, q.device)
        if cu_seqlens_k.shape != cu_seqlens_q.shape:
            shape = tuple(cu_seqlens_q.shape)
            raise invalid("cu_seqlens_k.shape", tuple(cu_seqlens_k.shape), f"{shape}, as cu_seqlens_q has")
    if k.shape[-2] == 0 or heads % k.shape[-2]:
        raise invalid(f"k.shape[{k.dim() - 2}]", k.shape[-2], f"a divisor of the {heads} query heads")
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
    chosen = resolve(backend, q.device)
    if chosen == "triton":
        check_served(q)
        return torch.ops.hive_kernels.cross_attention_weights(
            q, k, lse, tokens, samples, cu_seqlens_k, scale, width, head_mean
        )
    compute = _by_token if chosen == "reference" else _batched
    with without_autocast(q.device):
        weights = compute(q[tokens].to(lse.dtype), k, lse[tokens], samples, cu_seqlens_k, scale, width)
    return weights.mean(1) if head_mean else weights


def _by_token(
    q: Tensor, k: Tensor, lse: Tensor, samples: Tensor, cu_seqlens_k: Tensor | None, scale: float, width: int
) -> Tensor:
    """The definition: one token after the other. q [R, Hq, D], lse [R, Hq], both wide -> [R, Hq, width]."""
    weights = q.new_zeros(*q.shape[:2], width)
    groups = q.shape[1] // k.shape[-2]
    for row, sample in enumerate(samples.tolist()):
        image = sample if cu_seqlens_k is None else slice(*cu_seqlens_k[sample : sample + 2].tolist())
        keys = k[image].to(q.dtype).repeat_interleave(groups, 1)  # [N, Hq, D]
        scores = torch.einsum("hd,nhd->hn", q[row], keys) * scale
        weights[row, :, : keys.shape[0]] = (scores - lse[row, :, None]).exp()
    return weights


def _batched(
    q: Tensor, k: Tensor, lse: Tensor, samples: Tensor, cu_seqlens_k: Tensor | None, scale: float, width: int
) -> Tensor:
    """The same, on the images of the chosen tokens gathered."""
    exists = None
    if cu_seqlens_k is None:
        keys = k[samples]  # [R, N, Hkv, D]
    else:
        place = torch.arange(width, device=q.device)
        exists = place < cu_seqlens_k.diff()[samples, None]  # [R, N]
        rows = (cu_seqlens_k[samples, None] + place).where(exists, 0)
        keys = k[rows] if k.shape[0] else k.new_zeros(*rows.shape, *k.shape[1:])
    grouped = q.unflatten(1, (k.shape[-2], -1))  # [R, Hkv, G, D]
    scores = (grouped @ keys.to(q.dtype).permute(0, 2, 3, 1)).flatten(1, 2) * scale
    weights = (scores - lse[..., None]).exp()
    return weights if exists is None else weights.masked_fill(~exists[:, None], 0)


def _launch(
    q: Tensor, k: Tensor, lse: Tensor, tokens: Tensor, samples: Tensor, cu_k: Tensor | None, scale: float, width: int,
    head_mean: bool,
) -> Tensor:  # fmt: skip
    from hive_kernels.cross_attention import triton_weights

    return triton_weights.weights(q, k, lse, tokens, samples, cu_k, scale, width, head_mean)


def _fake(
    q: Tensor, k: Tensor, lse: Tensor, tokens: Tensor, samples: Tensor, cu_k: Tensor | None, scale: float, width: int,
    head_mean: bool,
) -> Tensor:  # fmt: skip
    return lse.new_empty((tokens.shape[0], width) if head_mean else (tokens.shape[0], q.shape[1], width))


def _flops(
    q: Any, k: Any, lse: Any, tokens: Any, samples: Any, cu_k: Any, scale: float, width: int, *_: Any, **__: Any
) -> int:
    """One product a query head and chosen token."""
    return 2 * tokens[0] * q[1] * q[2] * width


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("cross_attention_weights", _launch, _device)
torch.library.register_fake("hive_kernels::cross_attention_weights", _fake, lib=_LIBRARY)
register_flop_formula(torch.ops.hive_kernels.cross_attention_weights)(_flops)
