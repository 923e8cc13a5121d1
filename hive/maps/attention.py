"""Attention maps: which patches each chosen text token reads, at each depth that reads the image (figures 3, 12 to 14).

For all three ways to read an image the weights are exp(scale * q k^T - lse) over the image's keys, computed by
`hive_kernels.cross_attention_weights`; only the log-sum-exp differs:

- cross-attention: over the image's keys, as the fused kernel leaves it, so that a map sums to 1;
- joint fusion and self-attention: over the image's keys and the text up to the token, which share one softmax, so that
  a map sums to the part of its attention that the token spends on the image. The text's part is summed up in fp32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from hive.config import Config
from hive.data.text import Batch
from hive.model.alignment import align_depths, select_hidden_states
from hive.model.build import Model
from hive.model.fusion import CrossAttentionBlock, HierarchicalFusion
from hive.model.hive import HiveModel
from hive.model.self_attention import interleave
from hive_kernels import cross_attention, cross_attention_weights


@dataclass(frozen=True)
class AttentionMaps:
    """Weights of some text tokens over the patches, at S depths."""

    weights: Tensor
    """fp32 [S, K, Hq, h, w]: K tokens, Hq query heads."""
    decoder_layers: tuple[int, ...]
    """S 0-based layers of the language model."""
    hidden_states: tuple[int, ...]
    """S indices of the tower's hidden states that are read there: 0 = embeddings, k = output of layer k."""


@torch.no_grad()
def attention_maps(model: Model, config: Config, batch: Batch, tokens: Tensor) -> AttentionMaps:
    """Maps of the text tokens at positions `tokens`, int64 [K], of a batch that holds one pair, on the model's device.

    HIVE's are those of every depth that reads the image. In self-attention every layer does; the maps are those of the
    depths at which HIVE of the same configuration would read. A token's map is what it reads itself, that is, while
    the model predicts the token after it. `tokens` must not be 0 (BOS) in self-attention: BOS comes before the image.
    """
    assert batch.samples == 1
    reader = _Reader(batch, tokens, model.language.backend)
    with (
        torch.autocast("cuda", torch.bfloat16, enabled=batch.pixels.device.type == "cuda"),
        torch.compiler.set_stance("force_eager"),  # a compiled layer would not be seen
        _observed(model, depths_of(model, config), reader) as found,
    ):
        model(batch)
    side = model.tower.image_size // model.tower.patch_size
    weights = torch.stack([found[depth] for depth in sorted(found)]).unflatten(-1, (side, side))
    depths = tuple(sorted(found))
    selected = model.tower.selected
    return AttentionMaps(weights, depths, selected if len(selected) == len(depths) else selected * len(depths))


def depths_of(model: Model, config: Config) -> tuple[int, ...]:
    """The 0-based decoder layers whose attention is shown."""
    if isinstance(model, HiveModel):
        return model.fusion.depths
    groups = len(select_hidden_states(config.vision.selection, config.vision.density, config.vision.layers))
    layers = model.language.shape.layers
    return align_depths(config.depths, min(groups, layers), layers)


@dataclass(frozen=True)
class _Reader:
    """Computes the weights of the chosen tokens from what a depth works on."""

    batch: Batch
    tokens: Tensor
    backend: str

    def cross(self, block: CrossAttentionBlock, hidden: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[K, Hq, N] of a block of its own; `hidden` [T, D], `key` and `value` [1, N, Hkv, d]."""
        query = block.query(block.norm(hidden)).unflatten(-1, (-1, block.head_dim))
        return self.weights(query, key, self.image_lse(query, key, value))

    def joint(self, query: Tensor, text_key: Tensor, image_key: Tensor) -> Tensor:
        """[K, Hq, N] where image and text share a softmax; `query` [T, Hq, d], keys [T, Hkv, d] and [1, N, Hkv, d]."""
        lse = torch.logaddexp(self.image_lse(query, image_key, image_key), text_lse(query, text_key))
        return self.weights(query, image_key, lse)

    def image_lse(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Log-sum-exp [T, Hq] over the image's keys, from the kernel that trains."""
        _, lse = cross_attention(
            query,
            key.to(query.dtype),
            value.to(query.dtype),
            self.batch.cu_seqlens,
            max_seqlen_q=self.batch.max_seqlen,
            backend=self.backend,
            return_lse=True,
        )
        return lse

    def weights(self, query: Tensor, key: Tensor, lse: Tensor) -> Tensor:
        """exp(scale * q k^T - lse) [K, Hq, N] of the chosen tokens."""
        return cross_attention_weights(
            query, key.to(query.dtype), lse, self.batch.cu_seqlens, tokens=self.tokens, backend=self.backend
        )


def text_lse(query: Tensor, key: Tensor) -> Tensor:
    """log sum over j <= i of exp(q_i k_j / sqrt(d)) of one text, in fp32 or above: [T, Hq, d], [T, Hkv, d] -> [T, Hq].

    Query head h reads key head h // (Hq / Hkv).
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    tokens, heads, width = query.shape
    with torch.autocast(query.device.type, enabled=False):
        keys = key.to(wide).repeat_interleave(heads // key.shape[1], 1)
        scores = torch.einsum("ihd,jhd->ihj", query.to(wide), keys) * width**-0.5
    future = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).triu(1)
    return scores.masked_fill(future[:, None], float("-inf")).logsumexp(-1)


@contextmanager
def _observed(model: Model, depths: tuple[int, ...], reader: _Reader) -> Iterator[dict[int, Tensor]]:
    """Weights by decoder layer, computed beside the forward passes that run inside; the model is as before after it."""
    found: dict[int, Tensor] = {}
    if isinstance(model, HiveModel) and isinstance(model.fusion, HierarchicalFusion):
        hooks = [
            block.register_forward_pre_hook(_on_block(found, depth, reader), with_kwargs=True)
            for depth, block in zip(depths, model.fusion.blocks, strict=True)
        ]
    else:
        hook = _on_attention(found, depths, reader)
        hooks = [model.language.attention.register_forward_pre_hook(hook, with_kwargs=True)]
    try:
        yield found
    finally:
        for handle in hooks:
            handle.remove()


def _on_block(found: dict[int, Tensor], depth: int, reader: _Reader) -> Callable[..., None]:
    def hook(block: Any, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        found[depth] = reader.cross(block, inputs[0], named["key"], named["value"])

    return hook


def _on_attention(found: dict[int, Tensor], depths: tuple[int, ...], reader: _Reader) -> Callable[..., None]:
    """For the language model's own attention, which its layers call one after the other, with rotated queries."""
    layer = count()

    def hook(attention: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        depth, (query, key, _) = next(layer), inputs
        if depth not in depths:
            return
        if named["image"] is None:
            found[depth] = reader.joint(*_text_and_image(query, key, reader.batch))
        else:
            found[depth] = reader.joint(query, key, named["image"][0])

    return hook


def _text_and_image(query: Tensor, key: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Text's queries, text's keys and the image's keys out of self-attention's one sequence of a pair."""
    layout = interleave(batch, len(query) - batch.token_count)
    return query[layout.text_rows], key[layout.text_rows], key[layout.image_rows][None]
