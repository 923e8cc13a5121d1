"""FlashAttention-2 on the packed batch where torch has it, else SDPA on padded text."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hive_kernels import varlen
from hive_kernels.packing import PaddedLayout, longest, padded_layout, sample_of_token
from hive_kernels.validation import without_autocast


class Segments(NamedTuple):
    """The samples of a packed tensor: cu_seqlens int32 [B+1], and a bound on their lengths."""

    cu_seqlens: Tensor
    longest: int


def _segments(cu_seqlens: Tensor, bound: int | None, argument: str) -> Segments:
    """The samples bounded by ``bound`` or, if the caller left that ``argument`` out, by the longest one's length.

    Computing that length synchronises a GPU.
    """
    return Segments(cu_seqlens, longest(argument, cu_seqlens) if bound is None else bound)


def cross_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, max_seqlen_q: int | None, cu_seqlens_k: Tensor | None,
    max_seqlen_k: int | None, scale: float, return_lse: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """As reference.cross_attention."""
    texts, images = _segments(cu_seqlens_q, max_seqlen_q, "max_seqlen_q"), None
    if cu_seqlens_k is not None:
        images = _segments(cu_seqlens_k, max_seqlen_k, "max_seqlen_k")
    lse = _log_sum_exp(q, k, texts, images, scale) if return_lse else None
    if varlen.usable(q, k):
        if images is None:
            batch, tokens = k.shape[:2]
            images = Segments(torch.arange(batch + 1, dtype=torch.int32, device=q.device) * tokens, tokens)
            k, v = k.flatten(0, 1), v.flatten(0, 1)
        out = varlen.attention(
            q, k, v, texts.cu_seqlens, images.cu_seqlens, texts.longest, images.longest, causal=False, scale=scale
        )
        return out, lse
    layout = padded_layout(texts.cu_seqlens, q.shape[0], texts.longest)
    queries = _queries_by_key_head(q, k.shape[-2], layout)
    keys, mask = _padded_keys(k, images)
    values, _ = _padded_keys(v, images)
    if mask is not None:
        # A softmax over no keys is NaN. A sample without any reads one key of zeros instead, and is zeroed below.
        mask = mask | (torch.arange(mask.shape[-1], device=q.device) == 0)
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    out = _tokens_by_query_head(out, q.shape[1], layout)
    if images is not None:
        no_image = images.cu_seqlens.diff()[sample_of_token(texts.cu_seqlens, q.shape[0])] == 0
        out = out.masked_fill(no_image[:, None, None], 0)
    return out, lse


def joint_attention(
    q: Tensor, k_text: Tensor, v_text: Tensor, k_image: Tensor, v_image: Tensor, cu_seqlens: Tensor,
    max_seqlen: int | None, cu_seqlens_image: Tensor | None, max_seqlen_image: int | None, scale: float,
) -> Tensor:  # fmt: skip
    """As reference.joint_attention, with a mask over the concatenated image and text keys."""
    texts, images = _segments(cu_seqlens, max_seqlen, "max_seqlen"), None
    if cu_seqlens_image is not None:
        images = _segments(cu_seqlens_image, max_seqlen_image, "max_seqlen_image")
    layout = padded_layout(texts.cu_seqlens, q.shape[0], texts.longest)
    keys, exists = _padded_keys(k_image, images)  # [B, Hkv, N, D], [B, 1, 1, N]
    values, _ = _padded_keys(v_image, images)
    keys = torch.cat([keys, layout.pad(k_text).transpose(1, 2)], 2)
    values = torch.cat([values, layout.pad(v_text).transpose(1, 2)], 2)
    # Text is padded on the right, so under the causal half of the mask no token sees padding.
    visual, length = keys.shape[2] - texts.longest, texts.longest
    mask = torch.ones(length, visual + length, dtype=torch.bool, device=q.device).tril(visual)[None, None]
    if exists is not None:
        mask = mask & F.pad(exists, (0, length), value=True)
    queries = layout.pad(q).transpose(1, 2)  # [B, Hq, L, D]
    out = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k_text.shape[1]
    )
    return layout.unpad(out.transpose(1, 2))


def causal_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """As reference.causal_attention."""
    if varlen.usable(q, k):
        return varlen.attention(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, causal=True, scale=scale)
    # Padding is on the right, so under a causal mask no token ever sees it.
    layout = padded_layout(cu_seqlens, q.shape[0], max_seqlen)
    queries, keys, values = (layout.pad(x).transpose(1, 2) for x in (q, k, v))  # [B, H, L, D]
    out = F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return layout.unpad(out.transpose(1, 2))


def cross_attention_weights(
    q: Tensor, k: Tensor, lse: Tensor, tokens: Tensor, samples: Tensor, cu_seqlens_k: Tensor | None, scale: float,
    width: int, head_mean: bool,
) -> Tensor:  # fmt: skip
    """As reference.cross_attention_weights; gathers the images of the chosen tokens."""
    exists = None
    with without_autocast(q.device):
        if cu_seqlens_k is None:
            keys = k[samples]  # [R, N, Hkv, D]
        else:
            place = torch.arange(width, device=q.device)
            exists = place < cu_seqlens_k.diff()[samples, None]  # [R, N]
            rows = (cu_seqlens_k[samples, None] + place).where(exists, 0)
            keys = k[rows] if k.shape[0] else k.new_zeros(*rows.shape, *k.shape[1:])
        grouped = q[tokens].to(lse.dtype).unflatten(1, (k.shape[-2], -1))  # [R, Hkv, G, D]
        scores = (grouped @ keys.to(lse.dtype).permute(0, 2, 3, 1)).flatten(1, 2) * scale
        weights = (scores - lse[tokens][..., None]).exp()
        if exists is not None:
            weights = weights.masked_fill(~exists[:, None], 0)
    return weights.mean(1) if head_mean else weights


@torch.no_grad()
def _log_sum_exp(q: Tensor, k: Tensor, texts: Segments, images: Segments | None, scale: float) -> Tensor:
    """lse [T, Hq] by a second pass over the scores: SDPA has no such output, and varlen_attn's layout of it varies."""
    wide = torch.promote_types(q.dtype, torch.float32)
    layout = padded_layout(texts.cu_seqlens, q.shape[0], texts.longest)
    keys, mask = _padded_keys(k, images)
    with without_autocast(q.device):
        scores = _queries_by_key_head(q, k.shape[-2], layout).to(wide) @ keys.to(wide).transpose(2, 3) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return _tokens_by_query_head(scores.logsumexp(-1, keepdim=True), q.shape[1], layout).squeeze(-1)


def _queries_by_key_head(q: Tensor, key_heads: int, layout: PaddedLayout) -> Tensor:
    """[T, Hq, D] -> [B, Hkv, L * G, D]: a group's heads become rows of its key head, so keys are never expanded."""
    padded = layout.pad(q).unflatten(2, (key_heads, -1))  # [B, L, Hkv, G, D]
    return padded.permute(0, 2, 1, 3, 4).flatten(2, 3)


def _tokens_by_query_head(out: Tensor, heads: int, layout: PaddedLayout) -> Tensor:
    """[B, Hkv, L * G, D] -> [T, Hq, D]."""
    grouped = out.unflatten(2, (layout.length, heads // out.shape[1]))  # [B, Hkv, L, G, D]
    return layout.unpad(grouped.permute(0, 2, 1, 3, 4).flatten(2, 3))


def _padded_keys(k: Tensor, images: Segments | None) -> tuple[Tensor, Tensor | None]:
    """-> [B, Hkv, N, D], and which keys exist [B, 1, 1, N] (None: all of them)."""
    if images is None:
        return k.transpose(1, 2), None
    length = max(images.longest, 1)
    keys = padded_layout(images.cu_seqlens, k.shape[0], length).pad(k).transpose(1, 2)
    exists = torch.arange(length, device=k.device) < images.cu_seqlens.diff()[:, None]
    return keys, exists[:, None, None, :]
