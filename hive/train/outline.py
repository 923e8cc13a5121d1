"""The outline of a pre-training run, which python -m hive.train --dry-run reports."""

import dataclasses
from functools import partial
from pathlib import Path

import torch

from hive.config import Config
from hive.cost.cases import empty_batch
from hive.cost.flops import step_flops
from hive.cost.paper import CC3M_PAIRS
from hive.data.pairs import Pairs, open_pairs
from hive.data.text import Tokenizer, load_tokenizer
from hive.errors import UserError
from hive.model.build import build_model
from hive.stages import trained_parts
from hive.train.dry_run import Outline, absent_models, absent_packages
from hive.train.trackers import absent_trackers
from hive.train.trained import starting_folder, tokenizer_name

CAPTION_TOKENS = 16  # a usual length of CC3M's captions with BOS


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The run's data and tokenizer where this machine has them, and what it lacks."""

    pairs: Pairs | None
    """The whole set, held-out pairs included."""
    tokenizer: Tokenizer | None
    missing: list[str]
    """A sentence for everything that the run needs and this machine lacks."""


def outline(config: Config, resume: bool = False) -> Outline:
    """The outline of a new or resumed run. Shapes come from the configuration where weights are missing, lengths are
    assumed where data is."""
    inputs = find_inputs(config, resume)
    pairs, text_tokens, data_line = _measure_data(config, inputs)
    with torch.device("meta"):
        model = build_model(dataclasses.replace(config, seed=0), "torch", pretrained=False)

    def flops_of_a_pair(stage: int) -> float:
        return sum(cost.total for cost in step_flops(model, trained_parts(config, stage), 1, [text_tokens]).values())

    return Outline(
        config=config,
        unit="an image",
        model=model,
        trained_parts=partial(trained_parts, config),
        samples=dict.fromkeys((1, 2, 3), pairs),
        flops=flops_of_a_pair,
        micro_batch=lambda stage, samples: empty_batch((text_tokens,) * samples, model),
        data=[data_line],
        missing=inputs.missing,
    )


def find_inputs(config: Config, resume: bool = False) -> Inputs:
    """Looks for weights, data and tokenizer on this machine; downloads nothing."""
    pairs = tokenizer = None
    start = starting_folder(config, resume)
    absent = absent_models(config.vision, config.language) if start is None else {}
    missing = [*absent.values(), *absent_packages(config.vision), *absent_trackers(config.trackers)]
    named = config.language.tokenizer or config.language.weights
    tokenizer_source = named if start is None else tokenizer_name(start, "--from")
    if tokenizer_source not in absent:
        try:
            tokenizer = load_tokenizer(tokenizer_source)
        except UserError as error:
            missing.append(str(error))
    try:
        pairs = open_pairs(config.data, config.image_root, config.dataset, download=False)
    except UserError as error:
        hint = ""
        if Path(config.data).name == "chat.json":
            hint = (
                "\n         LLaVA's CC3M-595K: `hf download liuhaotian/LLaVA-CC3M-Pretrain-595K --repo-type dataset "
                f"--local-dir {Path(config.data).parent}`, then unzip its images.zip into {config.image_root}."
            )
        missing.append(f"{error}{hint}")
    return Inputs(pairs, tokenizer, missing)


def _measure_data(config: Config, inputs: Inputs) -> tuple[int, int, str]:
    """(pairs of the whole set, mean text tokens, the line about both), assumed where data or tokenizer is missing."""
    if inputs.pairs is None:
        text = f"data {config.data} can't be read yet: {CC3M_PAIRS:,} pairs with {CAPTION_TOKENS} text tokens each"
        return CC3M_PAIRS, CAPTION_TOKENS, f"{text} are assumed"
    number = inputs.pairs.epoch_pairs
    if inputs.tokenizer is None:
        text = f"data {config.data}: {number:,} pairs; without their tokenizer {CAPTION_TOKENS} text tokens each"
        return number, CAPTION_TOKENS, f"{text} are assumed"
    sample = inputs.pairs.captions[:: max(1, len(inputs.pairs) // 1000)]
    lengths = [len(inputs.tokenizer.encode(caption, config.dataset.max_text_tokens)) - 1 for caption in sample]
    mean = max(1, round(sum(lengths) / len(lengths)))
    return number, mean, f"data {config.data}: {number:,} pairs with {mean} text tokens on average"
