"""--dry-run: what a run would train and cost, and what it lacks, without a GPU, weights or data."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import torch

from hive.config import Config
from hive.cost.cases import empty_batch
from hive.cost.flops import step_flops
from hive.cost.paper import CC3M_PAIRS
from hive.cost.simulate import StageShape, simulate
from hive.data.pairs import Pairs, open_pairs
from hive.data.text import Tokenizer, load_tokenizer
from hive.errors import UserError
from hive.model.build import Model, build_model
from hive.model.eight_bit import how_to_get_torchao
from hive.model.pretrained import how_to_get, is_present
from hive.stages import enter_stage, stage_steps, trained_parts

CAPTION_TOKENS = 16  # a usual length of its captions with BOS


@dataclasses.dataclass(frozen=True)
class Found:
    """What of the run's needs is here already."""

    pairs: Pairs | None
    """The whole set: the held-out pairs are in it."""
    tokenizer: Tokenizer | None
    missing: list[str]
    """A sentence for everything that the run needs and this machine lacks."""


def report(config: Config) -> str:
    """The dry run's tables; shapes come from the configuration wherever weights are missing."""
    found = find(config)
    pairs, text_tokens, data_line = _measure_data(config, found)
    model, precision = _on_meta(config), config.vision.frozen_precision
    return "\n".join(
        [
            f"recipe {config.recipe}, method {config.method}",
            data_line,
            "",
            _part_row(model),
            "",
            f"{'stage':<7}{'trained':>12}{'steps':>8}{'batch':>7}{'GFLOP an image':>17}{'TFLOP a step':>15}"
            f"{'peak memory':>14}  trains",
            *_stage_rows(config, model, pairs, text_tokens),
            "",
            f"Peak memory is that of one process with bf16 autocast and micro-batches of {config.micro_batch_size}: "
            "what torch allocates, without the CUDA context."
            + (f" A frozen tower in {precision} is counted as one in bf16." if precision != "autocast" else ""),
            "",
            *(found.missing or ["Nothing is missing."]),
        ]
    )


def find(config: Config) -> Found:
    """Looks for weights, data and tokenizer, and downloads nothing."""
    pairs = tokenizer = None
    missing: list[str] = []
    absent: set[str] = set()
    for weights, flag in ((config.vision.weights, "--vision.weights"), (config.language.weights, "--language.weights")):
        if weights is not None and not is_present(weights):
            absent.add(weights)
            missing.append(f"missing: {how_to_get(weights, flag)}")
    if config.vision.frozen_precision != "autocast" and find_spec("torchao") is None:
        missing.append(f"missing: {how_to_get_torchao(config.vision.frozen_precision)}")
    tokenizer_source = config.language.tokenizer or config.language.weights
    if tokenizer_source not in absent:  # it comes with the weights
        try:
            tokenizer = load_tokenizer(tokenizer_source)
        except UserError as error:
            missing.append(f"missing: {error}")
    try:
        pairs = open_pairs(config.data, config.image_root)
    except UserError as error:
        missing.append(f"missing: {error}")
        if Path(config.data).name == "chat.json":
            missing.append(
                "         LLaVA's CC3M-595K: `hf download liuhaotian/LLaVA-CC3M-Pretrain-595K --repo-type dataset "
                f"--local-dir {Path(config.data).parent}`, then unzip its images.zip into {config.image_root}."
            )
    return Found(pairs, tokenizer, missing)


def _measure_data(config: Config, found: Found) -> tuple[int, int, str]:
    """Pairs of the whole set, mean text tokens, and the line that says so."""
    if found.pairs is None:
        text = f"data {config.data} can't be read yet: {CC3M_PAIRS:,} pairs with {CAPTION_TOKENS} text tokens each"
        return CC3M_PAIRS, CAPTION_TOKENS, f"{text} are assumed"
    number = len(found.pairs)
    if found.tokenizer is None:
        text = f"data {config.data}: {number:,} pairs; without their tokenizer {CAPTION_TOKENS} text tokens each"
        return number, CAPTION_TOKENS, f"{text} are assumed"
    sample = found.pairs.captions[:: max(1, number // 1000)]
    lengths = [len(found.tokenizer.encode(caption, config.dataset.max_text_tokens)) - 1 for caption in sample]
    mean = max(1, round(sum(lengths) / len(lengths)))
    return number, mean, f"data {config.data}: {number:,} pairs with {mean} text tokens on average"


def _on_meta(config: Config) -> Model:
    local = dataclasses.replace(config, seed=0)
    with torch.device("meta"):
        return build_model(local, "torch", pretrained=False)


def _part_row(model: Model) -> str:
    counts = {name: sum(parameter.numel() for parameter in part) for name, part in model.parts().items()}
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = total - sum(counts.values())
    parts = ", ".join(f"{name} {count / 1e6:,.2f} M" for name, count in counts.items())
    return f"parameters {total / 1e6:,.2f} M: {parts}" + (f", unread tower layers {idle / 1e6:,.2f} M" if idle else "")


def _stage_rows(config: Config, model: Model, pairs: int, text_tokens: int) -> list[str]:
    left = []
    shapes = []
    for stage in config.stages:
        schedule, parts = config.schedule(stage), trained_parts(config, stage)
        trained = sum(parameter.numel() for parameter in enter_stage(model, parts).values())
        flops = sum(cost.total for cost in step_flops(model, parts, 1, [text_tokens]).values())
        left.append(
            f"{stage:<7}{trained / 1e6:>10,.2f} M{stage_steps(config, stage, pairs):>8,}{schedule.batch_size:>7,}"
            f"{flops / 1e9:>17,.1f}{flops * schedule.batch_size / 1e12:>15,.2f}"
        )
        batch = empty_batch((text_tokens,) * min(config.micro_batch_size, schedule.batch_size), model)
        shapes.append(StageShape(parts, schedule, batch))
    names = [", ".join(name for name in model.parts() if name in shape.parts) for shape in shapes]
    peaks = [step.peak for step in simulate(model, shapes, torch.bfloat16)]
    return [f"{text}{peak / 1e9:>11,.1f} GB  {trains}" for text, peak, trains in zip(left, peaks, names, strict=True)]
