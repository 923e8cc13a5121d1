"""FlashAttention-2 on the packed batch where torch has it, else SDPA on padded text."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hive_kernels import varlen
from hive_kernels.packing import PaddedLayout, padded_layout, sample_of_token
from hive_kernels.validation import without_autocast


class Segments(NamedTuple):
    """Where samples lie in a packed tensor: cu_seqlens int32 [B+1], and a bound on their lengths."""

    cu_seqlens: Tensor
    longest: int


def cross_attention(q: Tensor, k: Tensor, v: Tensor, texts: Segments, images: Segments | None, scale: float) -> Tensor:
    """q [T, Hq, D], k, v [B, N, Hkv, D] or, with ``images``, [Tk, Hkv, D] -> [T, Hq, D]."""
    if varlen.usable(q, k):
        if images is None:
            batch, tokens = k.shape[:2]
            images = Segments(torch.arange(batch + 1, dtype=torch.int32, device=q.device) * tokens, tokens)
            k, v = k.flatten(0, 1), v.flatten(0, 1)
        return varlen.attention(
            q, k, v, texts.cu_seqlens, images.cu_seqlens, texts.longest, images.longest, causal=False, scale=scale
        )
    layout = padded_layout(texts.cu_seqlens, q.shape[0], texts.longest)
    queries = _queries_by_key_head(q, k.shape[-2], layout)
    keys, mask = padded_keys(k, images)
    values, _ = padded_keys(v, images)
    if mask is not None:
        # A sample without keys would be a softmax over nothing; let it see one key of zeros, and zero it below.
        mask = mask | (torch.arange(mask.shape[-1], device=q.device) == 0)
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    out = _tokens_by_query_head(out, q.shape[1], layout)
    if images is not None:
        blind = images.cu_seqlens.diff()[sample_of_token(texts.cu_seqlens, q.shape[0])] == 0
        out = out.masked_fill(blind[:, None, None], 0)
    return out


@torch.no_grad()
def log_sum_exp(q: Tensor, k: Tensor, texts: Segments, images: Segments | None, scale: float) -> Tensor:
    """lse [T, Hq] by a second pass over the scores: SDPA has no such output, and varlen_attn's layout of it varies."""
    wide = torch.promote_types(q.dtype, torch.float32)
    layout = padded_layout(texts.cu_seqlens, q.shape[0], texts.longest)
    keys, mask = padded_keys(k, images)
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


def padded_keys(k: Tensor, images: Segments | None) -> tuple[Tensor, Tensor | None]:
    """-> [B, Hkv, N, D], and which keys exist [B, 1, 1, N] (None: all of them)."""
    if images is None:
        return k.transpose(1, 2), None
    length = max(images.longest, 1)
    keys = padded_layout(images.cu_seqlens, k.shape[0], length).pad(k).transpose(1, 2)
    exists = torch.arange(length, device=k.device) < images.cu_seqlens.diff()[:, None]
    return keys, exists[:, None, None, :]
