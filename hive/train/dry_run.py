"""--dry-run: what a run would train and cost, and what is missing for it. Needs no GPU, weights or data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from hive.config import LanguageConfig, RunConfig, TowerConfig
from hive.cost.simulate import StageShape, simulate
from hive.data.order import rounds, share
from hive.data.text import Batch
from hive.model.build import Model
from hive.model.eight_bit import how_to_get_torchao
from hive.model_files import TOKENIZER, WEIGHTS, how_to_get, is_present
from hive.stages import enter_stage, stage_steps


@dataclass(frozen=True, eq=False, kw_only=True)
class Outline:
    """What a dry run knows of a run: the model's shapes without weights, the samples' lengths without data."""

    config: RunConfig
    unit: str
    """What FLOPs are given for, such as "an image"."""
    model: Model
    """On the meta device."""
    trained_parts: Callable[[int], frozenset[str]]
    """The names in `model.parts()` that have gradients in a stage."""
    samples: Mapping[int, int]
    """Samples of an epoch, by stage."""
    flops: Callable[[int], float]
    """FLOPs of one sample in a stage, forward and backward."""
    micro_batch: Callable[[int, int], Batch]
    """Makes a stage's micro-batch of a number of samples of usual lengths, on the meta device."""
    data: Sequence[str]
    """Lines that say what is known or assumed of the data."""
    missing: Sequence[str]
    """A sentence for everything that the run needs and this machine lacks."""


def report(outline: Outline) -> str:
    """The dry run's text: data, parameters, a row a stage, and what is missing."""
    config, precision = outline.config, outline.config.vision.frozen_precision
    return "\n".join(
        [
            f"recipe {config.recipe}, method {config.trains}",
            *outline.data,
            "",
            _part_row(outline.model),
            "",
            f"{'stage':<7}{'trained':>12}{'steps':>8}{'batch':>7}{'GFLOP ' + outline.unit:>17}{'TFLOP a step':>15}"
            f"{'peak memory':>14}  trains",
            *_stage_rows(outline),
            "",
            "Peak memory is that of one process with bf16 autocast and micro-batches of at most "
            f"{config.micro_batch_size}: what torch allocates, without the CUDA context."
            + (f" A frozen tower in {precision} is counted as one in bf16." if precision != "autocast" else ""),
            "",
            *([f"missing: {sentence}" for sentence in outline.missing] or ["Nothing is missing."]),
        ]
    )


def absent_models(vision: TowerConfig, language: LanguageConfig) -> dict[str, str]:
    """The weights and tokenizers that this machine lacks, each with a sentence that says how to get them."""
    wanted = (
        (vision.weights, "--vision.weights", WEIGHTS),
        (language.weights, "--language.weights", WEIGHTS),
        (language.tokenizer, "The tokenizer", TOKENIZER),
        (language.weights, "The tokenizer", TOKENIZER),
    )
    absent: dict[str, str] = {}
    for name, flag, need in wanted:
        if name is not None and not is_present(name, need):
            absent.setdefault(name, how_to_get(name, flag, need))
    return absent


def absent_packages(vision: TowerConfig) -> list[str]:
    """A sentence for each package that the configuration needs and this machine lacks."""
    if vision.frozen_precision == "autocast" or find_spec("torchao") is not None:
        return []
    return [how_to_get_torchao(vision.frozen_precision)]


def _part_row(model: Model) -> str:
    counts = {name: sum(parameter.numel() for parameter in part) for name, part in model.parts().items()}
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = total - sum(counts.values())
    parts = ", ".join(f"{name} {count / 1e6:,.2f} M" for name, count in counts.items())
    return f"parameters {total / 1e6:,.2f} M: {parts}" + (f", unread tower layers {idle / 1e6:,.2f} M" if idle else "")


def _stage_rows(outline: Outline) -> list[str]:
    config, model = outline.config, outline.model
    beginnings = []
    shapes = []
    for stage in config.stages:
        schedule, parts = config.schedule(stage), outline.trained_parts(stage)
        trained = sum(parameter.numel() for parameter in enter_stage(model, parts).values())
        flops = outline.flops(stage)
        beginnings.append(
            f"{stage:<7}{trained / 1e6:>10,.2f} M{stage_steps(config, stage, outline.samples[stage]):>8,}"
            f"{schedule.batch_size:>7,}{flops / 1e9:>17,.1f}{flops * schedule.batch_size / 1e12:>15,.2f}"
        )
        parts_of_batch = rounds(schedule.batch_size, config.micro_batch_size, 1)
        _, largest = share(schedule.batch_size, 0, parts_of_batch)
        shapes.append(StageShape(parts, schedule, outline.micro_batch(stage, largest)))
    names = [", ".join(name for name in model.parts() if name in shape.parts) for shape in shapes]
    peaks = [step.peak for step in simulate(model, shapes, torch.bfloat16)]
    rows = zip(beginnings, peaks, names, strict=True)
    return [f"{beginning}{peak / 1e9:>11,.1f} GB  {trains}" for beginning, peak, trains in rows]
