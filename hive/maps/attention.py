"""Attention maps: which patches each chosen text token reads, at each depth that reads the image (figures 3, 12 to 14).

For all three ways to read an image the weights are exp(scale * q k^T - lse) over the image's keys, computed by
`hive_kernels.cross_attention_weights`; only the log-sum-exp differs:

- cross-attention: over the image's keys, as the fused kernel leaves it, so that a map sums to 1;
- joint fusion and self-attention: over the image's keys and the text up to the token, which share one softmax, so that
  a map sums to the part of its attention that the token spends on the image. The text's part is summed up in fp32.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hive.config import Config
from hive.data.text import Batch
from hive.model.alignment import align_depths, select_hidden_states
from hive.model.build import Model
from hive.model.fusion import Injection
from hive.model.hive import HiveModel
from hive.model.observe import observe, text_lse
from hive.model.self_attention import SelfAttentionModel
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
        torch.compiler.set_stance("force_eager"),  # compiling takes longer than one batch
    ):
        if isinstance(model, HiveModel):
            _, found = observe(model, batch, lambda seen: reader.weights(seen.query, seen.image_key, seen.text_key))
        else:
            found = _self_attention_weights(model, depths_of(model, config), reader)
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
    """Computes the weights of the chosen tokens from the queries and keys of a depth."""

    batch: Batch
    tokens: Tensor
    backend: str

    def weights(self, query: Tensor, image_key: Tensor, text_key: Tensor | None) -> Tensor:
        """exp(scale * q k^T - lse) [K, Hq, N] of `query` [T, Hq, d] and keys [1, N, Hkv, d].

        The log-sum-exp is over the image's keys and, where they share one softmax, the text's [T, Hkv, d].
        """
        key = image_key.to(query.dtype)
        # The log-sum-exp is that of the kernel that trains; it depends on no value.
        _, lse = cross_attention(
            query,
            key,
            key,
            self.batch.cu_seqlens,
            max_seqlen_q=self.batch.max_seqlen,
            backend=self.backend,
            return_lse=True,
        )
        if text_key is not None:
            lse = torch.logaddexp(lse, text_lse(query, text_key))
        return cross_attention_weights(query, key, lse, self.batch.cu_seqlens, tokens=self.tokens, backend=self.backend)


def _self_attention_weights(model: SelfAttentionModel, depths: tuple[int, ...], reader: _Reader) -> dict[int, Tensor]:
    """Weights by decoder layer, out of self-attention's one sequence of a pair."""
    rows, layout = model.sequence(reader.batch)
    found: dict[int, Tensor] = {}

    def look(depth: int, hidden: Tensor) -> Tensor:
        query, key, _ = model.language.attention_inputs(depth, hidden, layout)
        text_rows, image_rows = layout.text_rows, layout.image_rows
        found[depth] = reader.weights(query[text_rows], key[image_rows][None], key[text_rows])
        return hidden

    model.language(rows, layout, Injection({depth: partial(look, depth) for depth in depths}))
    return found
