"""The injection check: what the images add to the language model before the first step of a stage.

It is printed, kept in the run folder, and warns where training would start badly. It changes nothing: neither weights,
random numbers and the order of the data, nor what is measured of the training.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hive.data.text import Batch
from hive.files import INJECTION, read_records, replace_text
from hive.model.hive import HiveModel
from hive.model.observe import Reading, observe, text_lse
from hive.model.vision import Encode
from hive_kernels.validation import without_autocast

LARGEST_FACTOR = 1.2
"""Injection that multiplies the loss by more has damaged the language model; a fresh one's loss hardly changes."""
UNIFORM = 0.999
"""Attention with at least this share of the largest entropy is uniform to 0.1 %."""


@dataclass(frozen=True)
class Depth:
    """How the text of a micro-batch reads the images at one depth; means are over its tokens and the query heads."""

    decoder_layer: int
    """0-based."""
    hidden_state: int
    """Of the tower: 0 = embeddings, k = output of layer k."""
    entropy: float
    """Mean entropy of the attention over an image's N patches, as a share of log N, that of uniform attention."""
    spread: float
    """Mean standard deviation of the attention's logits over the patches."""
    update: float
    """Norm of what the images change in the residual stream, behind the gate, as a share of the stream's norm: the
    median over the tokens, because the stream of BOS is often far from all others."""
    gate: float | None
    """tanh of the gate, which scales the update; None without gates."""
    image_share: float | None
    """In joint fusion, the mean part of the softmax that falls on the image; None in cross-attention."""


@dataclass(frozen=True)
class InjectionCheck:
    """The losses of a stage's first micro-batch without and with the images, and how each depth reads them."""

    stage: int
    """Counted from 1."""
    step: int
    """Optimiser steps taken in the run so far."""
    pairs: int
    """In the micro-batch."""
    patches: int
    """Patch tokens of an image, N."""
    text_loss: float
    """Of the language model without injection, nats a token."""
    loss: float
    """With injection, nats a token."""
    depths: tuple[Depth, ...]
    warnings: tuple[str, ...]
    """A sentence each."""


@torch.no_grad()
def check_injection(
    model: HiveModel, batch: Batch, encode: Encode, *, stage: int, step: int, trained: bool, continues: bool = False
) -> InjectionCheck:
    """Runs the model on a micro-batch on its device, as a training step does, without and with the images.

    `trained` says whether the text's queries were trained before, by this run or another. With fresh weights attention
    is uniform, so that there is a warning of it only where this is true. `continues` says whether `--from` brought the
    weights, whose shape and gates can't be chosen any more: what warnings advise differs.
    """
    with (
        torch.autocast("cuda", torch.bfloat16, enabled=batch.pixels.device.type == "cuda"),
        torch.compiler.set_stance("force_eager"),  # compiling takes longer than one micro-batch
    ):
        text_loss = model.loss(batch).item() / batch.token_count
        total, measured = observe(model, batch, lambda reading: _measure(reading, batch), encode)
    loss = total.item() / batch.token_count
    patches = model.tower.patches
    depths = tuple(
        Depth(layer, hidden_state, *measured[layer])
        for layer, hidden_state in zip(model.fusion.depths, model.tower.selected, strict=True)
    )
    uniform = _warn_of_uniform(depths, patches, step, continues) if trained else None
    warnings = [_warn_of_loss(text_loss, loss, depths, stage, continues), uniform]
    return InjectionCheck(
        stage=stage,
        step=step,
        pairs=batch.samples,
        patches=patches,
        text_loss=text_loss,
        loss=loss,
        depths=depths,
        warnings=tuple(warning for warning in warnings if warning is not None),
    )


class _Measured(NamedTuple):
    """The fields of `Depth` that a reading gives."""

    entropy: float
    spread: float
    update: float
    gate: float | None
    image_share: float | None


def _measure(reading: Reading, text: Batch) -> _Measured:
    """A reading's numbers, one text after the other, so that no more than one text's attention is in memory."""
    query, key, text_key = reading.query.float(), reading.image_key.float(), reading.text_key
    measured: list[Tensor] = []
    with without_autocast(query.device):
        for sample, (start, end) in enumerate(pairwise(text.cu_seqlens.tolist())):
            keys = key[sample].repeat_interleave(query.shape[1] // key.shape[2], 1)  # [N, Hq, d]
            logits = torch.einsum("lhd,nhd->lhn", query[start:end], keys) * query.shape[-1] ** -0.5
            log_weights = logits.log_softmax(-1)
            entropies, spreads = -(log_weights.exp() * log_weights), logits.std(-1, correction=0)
            shares = torch.zeros_like(spreads)
            if text_key is not None:
                in_text = text_lse(query[start:end], text_key[start:end])
                shares = (logits.logsumexp(-1) - in_text).sigmoid()
            measured.append(torch.stack([entropies.sum(), spreads.sum(), shares.sum().to(spreads.dtype)]))
    sums = torch.stack(measured).cpu().double().sum(0)  # on the host: not all devices have fp64
    entropy, spread, share = (sums / (query.shape[0] * query.shape[1])).tolist()
    update, stream = (states.float().norm(dim=-1) for states in (reading.update, reading.hidden))
    return _Measured(
        entropy=entropy / log(key.shape[1]) if key.shape[1] > 1 else 0.0,
        spread=spread,
        update=(update / stream.clamp_min(torch.finfo(stream.dtype).tiny)).median().item(),
        gate=None if reading.gate is None else reading.gate.tanh().item(),
        image_share=None if text_key is None else share,
    )


def _warn_of_loss(text_loss: float, loss: float, depths: Sequence[Depth], stage: int, continues: bool) -> str | None:
    """A sentence where injection multiplies the loss, or a loss is not a number."""
    if loss <= LARGEST_FACTOR * text_loss:
        return None
    if not (isfinite(loss) and isfinite(text_loss)):
        return (
            f"The loss is {text_loss:.2f} with the text alone and {loss:.2f} with the images, and a loss that is not "
            "finite trains nothing: check the weights that the run begins with, and the images."
        )
    if continues:
        cure = "see whether these pairs are of the kind that the model of --from was trained on"
    elif depths[0].image_share is not None:
        cure = "start again with --fusion cross and --gate, whose blocks begin closed"
    elif depths[0].gate is None:
        cure = "start again with --gate, so that the blocks begin closed"
    else:
        cure = f"the gates have opened too far before stage {stage}: start again with a lower peak learning rate"
    return (
        f"Injection multiplies the loss by {loss / text_loss:.2f}, from {text_loss:.2f} with the text alone to "
        f"{loss:.2f}, so that training first has to undo what it does to the language model: {cure}."
    )


def _warn_of_uniform(depths: Sequence[Depth], patches: int, step: int, continues: bool) -> str | None:
    """A sentence where attention is uniform after `step` steps of the run."""
    layers = [str(depth.decoder_layer) for depth in depths if depth.entropy >= UNIFORM]
    if not layers:
        return None
    where = f"decoder layer{'s' if len(layers) > 1 else ''} {', '.join(layers)}"
    if step:
        cure = "train the stage before for longer"
    elif continues:
        cure = "train the run that --from names for longer"
    else:
        cure = "make sure that --vision.weights names a trained tower"
    return (
        f"Attention to the image is uniform to {1 - UNIFORM:.1%} at {where}, so that there the text "
        f"reads the mean of the {patches} patches, whatever they show: {cure}."
    )


def describe(check: InjectionCheck) -> str:
    """The check as an aligned text table, with a row a depth, and the warnings."""
    joint = check.depths[0].image_share is not None
    entropy, last = f"entropy / log {check.patches}", "image's share" if joint else "tanh(gate)"
    lines = [
        f"injection: the loss of {check.pairs} pairs is {check.text_loss:.3f} with the text alone, {check.loss:.3f} "
        "with the images, nats a token",
        f"{'decoder layer':<15}{'hidden state':>12}{entropy:>20}{'logit spread':>15}{'update / stream':>18}{last:>16}",
    ]
    for depth in check.depths:
        scale = depth.image_share if joint else depth.gate
        lines.append(
            f"{depth.decoder_layer:<15}{depth.hidden_state:>12}{depth.entropy:>20.4f}{depth.spread:>15.3f}"
            f"{depth.update:>18.3f}{'no gate' if scale is None else f'{scale:.3f}':>16}"
        )
    return "\n".join([*lines, *(f"warning: {sentence}" for sentence in check.warnings)])


def record_check(check: InjectionCheck, folder: Path) -> None:
    """Writes the check as a line of the run folder's injection.jsonl, in the place of those of this or a later stage.

    Numbers that are not finite, which JSON lacks, become null.
    """
    path = folder / INJECTION
    earlier = [line for line in read_records(path) if line["stage"] < check.stage]
    line = json.loads(json.dumps(dataclasses.asdict(check)), parse_constant=lambda _: None)
    replace_text(path, "".join(json.dumps(line) + "\n" for line in [*earlier, line]))
