"""What HIVE's text reads of the images at each depth, seen while the model runs; the model stays as it is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from hive.data.text import Batch
from hive.model.fusion import CrossAttentionBlock, HierarchicalFusion, Injection
from hive.model.hive import HiveModel
from hive.model.language import LanguageModel, packed_attention
from hive.model.vision import Encode

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Reading:
    """One depth at which T text tokens read B images of N patches, with Hq query and Hkv key heads of d channels."""

    query: Tensor
    """[T, Hq, d]."""
    image_key: Tensor
    """[B, N, Hkv, d], in its own dtype."""
    text_key: Tensor | None
    """[T, Hkv, d], rotated as the query is, where image and text share one softmax; None in cross-attention."""
    hidden: Tensor
    """The residual stream [T, D] that the text comes with."""
    update: Tensor
    """What the images change in the stream, [T, D].

    In cross-attention it is what the block adds, behind the gate. In joint fusion it is the difference between the
    layer's attention with and without the image's keys, behind the output projection.
    """
    gate: Tensor | None
    """The block's gate, whose tanh scales the update; None where there is none."""


def observe(
    model: HiveModel, batch: Batch, measure: Callable[[Reading], T], encode: Encode | None = None
) -> tuple[Tensor, dict[int, T]]:
    """The loss as `model(batch, encode)` returns it, and `measure` of each depth's reading by its decoder layer.

    `measure` is called while the model runs, so that no two readings are in memory at once.
    """
    measured: dict[int, T] = {}
    keys_values = model.fusion.keys_values(model.project(batch, encode))

    def cross(module: nn.Module, depth: int, hidden: Tensor) -> Tensor:
        block = cast(CrossAttentionBlock, module)
        key, value = keys_values[depth]
        result = block(hidden, key=key, value=value, text=batch)
        measured[depth] = measure(Reading(block.queries(hidden), key, None, hidden, result - hidden, block.gate))
        return result

    def joint(depth: int, hidden: Tensor) -> Tensor:
        query, key, value = model.language.attention_inputs(depth, hidden, batch)
        update = _joint_update(model.language, depth, (query, key, value), keys_values[depth], batch)
        measured[depth] = measure(Reading(query, keys_values[depth][0], key, hidden, update, None))
        return hidden  # the layer itself, which follows, reads the image

    if isinstance(model.fusion, HierarchicalFusion):
        blocks = zip(model.fusion.depths, model.fusion.blocks, strict=True)
        injection = Injection(before_layer={depth: partial(cross, block, depth) for depth, block in blocks})
    else:
        injection = Injection({depth: partial(joint, depth) for depth in model.fusion.depths}, keys_values)
    return model.loss(batch, injection), measured


def _joint_update(
    language: LanguageModel,
    depth: int,
    text_inputs: tuple[Tensor, Tensor, Tensor],
    image: tuple[Tensor, Tensor],
    text: Batch,
) -> Tensor:
    """[T, D]: a layer's attention with an image's keys and values minus that without, behind the output projection."""
    attend = partial(
        packed_attention,
        *text_inputs,
        cu_seqlens=text.cu_seqlens,
        max_seqlen=text.max_seqlen,
        backend=language.backend,
    )
    output = language.attention_parts([depth])[depth].output
    return output(attend(image=image).flatten(-2)) - output(attend().flatten(-2))


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
