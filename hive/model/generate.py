"""What a trained model says of images, token by token; keys and values of earlier tokens are kept."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hive.data.text import Batch, pack
from hive.errors import UserError
from hive.model.build import Model
from hive.model.fusion import Injection
from hive.model.hive import HiveModel

Choose = Callable[[Tensor], Tensor]
"""The next token of each of B texts, int64 [B], of its logits, fp32 [B, V]."""


class KeptAttention:
    """Attention of B texts' new rows over all their rows so far, the same number in each; H, Hkv heads of d channels.

    Rows are packed as everywhere, one text after the other.
    """

    def __init__(self, texts: int, images: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """`images` are the keys and values [B, N, Hkv, d] that layers read in front of the text's, by the layer."""
        self.texts = texts
        self.kept = dict(images)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, layer: int) -> Tensor:
        """[B * n, Hq, d] of the new rows' query [B * n, Hq, d], key and value [B * n, Hkv, d], which it keeps."""
        query, key, value = (rows.unflatten(0, (self.texts, -1)) for rows in (query, key, value.to(query.dtype)))
        new = query.shape[1]
        if layer in self.kept:
            earlier = (kept.to(query.dtype) for kept in self.kept[layer])
            key, value = (torch.cat([kept, rows], 1) for kept, rows in zip(earlier, (key, value), strict=True))
        self.kept[layer] = key, value
        assert new in (1, key.shape[1]), "several new rows are the first ones"
        query, key, value = (rows.transpose(1, 2) for rows in (query, key, value))  # [B, heads, rows, d]
        attended = scaled_dot_product_attention(query, key, value, is_causal=new > 1, enable_gqa=True)
        return attended.transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def generate(
    model: Model, pixels: Tensor, bos_id: int, choose: Choose, is_end: Callable[[int], bool], max_tokens: int
) -> list[list[int]]:
    """The tokens that follow BOS for each image of uint8 pixels [B, 3, H, W], up to the first that `is_end` accepts.

    A text that has not ended within `max_tokens` tokens is cut there. On a GPU it runs in bf16 autocast, as training.
    Raises `UserError` for weights that give no finite logits.
    """
    language, device = model.language, model.tower.mean.device
    batch = pack([(image, (bos_id, bos_id)) for image in pixels]).to(device)  # a text is BOS alone
    texts: list[list[int]] = [[] for _ in pixels]
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        injection, rows, positions = _begin(model, batch)
        kept = KeptAttention(len(texts), injection.images)
        attention = [partial(kept.attend, layer=layer) for layer in range(language.shape.layers)]
        length = len(rows) // len(texts)
        for _ in range(max_tokens):
            hidden = language.run_layers(rows, replace(batch, positions=positions), injection, attention)
            logits = language.logits(hidden.unflatten(0, (len(texts), -1))[:, -1]).float()
            if not logits.isfinite().all():
                raise UserError("The model's numbers are not finite: its training diverged, so train it again.")
            tokens = choose(logits)
            for text, token in zip(texts, tokens.tolist(), strict=True):
                if not text or not is_end(text[-1]):
                    text.append(token)
            if all(is_end(text[-1]) for text in texts):
                break
            rows, positions = language.embed(tokens), torch.full_like(batch.positions, length)
            length += 1
    return texts


def _begin(model: Model, batch: Batch) -> tuple[Injection, Tensor, Tensor]:
    """What the images add, the first rows of all texts, and their positions: BOS, and in the baseline the image."""
    if isinstance(model, HiveModel):
        return model.fusion(model.project(batch), batch), model.language.embed(batch.tokens), batch.positions
    rows, layout = model.sequence(batch)
    return Injection(), rows, layout.positions
