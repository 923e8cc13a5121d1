"""What a run costs: steps, images and training FLOPs over all its stages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from hive.config import Config
from hive.cost.flops import step_flops
from hive.data.order import steps
from hive.data.pairs import open_pairs
from hive.data.text import load_configured_tokenizer
from hive.model.build import Model, build_model
from hive.stages import enter_stage, stage_steps, trained_parts


@dataclass(frozen=True)
class Texts:
    """The lengths of the training captions, as the language model reads them."""

    lengths: tuple[int, ...]
    """Tokens of each pair's text that the model reads."""

    @property
    def pairs(self) -> int:
        """Pairs of an epoch."""
        return len(self.lengths)


@dataclass(frozen=True)
class RunCost:
    """What one run costs, over all its stages."""

    steps: tuple[int, ...]
    """Optimiser steps of each stage."""
    images: int
    flops: float
    """Forward and backward, in training."""


def read_texts(config: Config) -> Texts:
    """Counts every training caption's tokens; `UserError` where data or tokenizer can't be read."""
    pairs = open_pairs(config.data, config.image_root, config.dataset)
    tokenizer = load_configured_tokenizer(config.language)
    ids = (tokenizer.encode(caption, config.dataset.max_text_tokens) for caption in pairs.captions)
    return Texts(tuple(len(tokens) - 1 for tokens in ids))  # the last token is only predicted


def flops_an_image(config: Config, texts: Texts) -> list[float]:
    """Returns the forward and backward FLOPs of a training pair in each of the run's stages, averaged over the set."""
    model = _build_on_meta(config)
    flops = []
    for stage in config.stages:
        parts = trained_parts(config, stage)
        enter_stage(model, parts)
        costs = step_flops(model, parts, texts.pairs, texts.lengths)
        flops.append(sum(cost.total for cost in costs.values()) / texts.pairs)
    return flops


def read_layer(config: Config) -> int:
    """Returns the deepest hidden state that the run reads: no layer above it is trained."""
    return _build_on_meta(config).tower.selected[-1]


@lru_cache(maxsize=32)  # shapes alone: building them is what takes time
def _build_on_meta(config: Config) -> Model:
    with torch.device("meta"):
        return build_model(config, "torch", pretrained=False)


def run_cost(config: Config, texts: Texts) -> RunCost:
    """Returns the cost of a run."""
    counts = [stage_steps(config, stage, texts.pairs) for stage in config.stages]
    images = [n * config.schedule(stage).batch_size for n, stage in zip(counts, config.stages, strict=True)]
    flops = sum(n * each for n, each in zip(images, flops_an_image(config, texts), strict=True))
    return RunCost(tuple(counts), sum(images), flops)


def with_flops_of(config: Config, other: Config, texts: Texts) -> Config:
    """Returns `config` with the number of steps that makes its training FLOPs equal to `other`'s.

    All stages are scaled by one factor; the last one makes up for the rounding of the others.
    """
    target = run_cost(other, texts).flops
    share = target / run_cost(config, texts).flops
    flops_a_step = [
        each * config.schedule(stage).batch_size
        for each, stage in zip(flops_an_image(config, texts), config.stages, strict=True)
    ]
    counts = [max(1, round(share * stage_steps(config, stage, texts.pairs))) for stage in config.stages[:-1]]
    remaining = target - sum(n * each for n, each in zip(counts, flops_a_step[:-1], strict=True))
    counts.append(max(1, round(remaining / flops_a_step[-1])))
    return _with_steps(config, counts, texts.pairs)


def _with_steps(config: Config, counts: Sequence[int], pairs: int) -> Config:
    """Returns `config` with the epochs that give these steps, so that the learning rate ends where training does."""
    changes = {}
    for stage, count in zip(config.stages, counts, strict=True):
        schedule = config.schedule(stage)
        steps_a_pass = steps(1.0, pairs, schedule.batch_size)
        changes[f"schedule{stage}"] = replace(schedule, epochs=count / steps_a_pass)
    return replace(config, **changes)  # type: ignore[arg-type]
