"""Pre-training as far as its configuration decides it: what python -m hive.train --dry-run reports."""

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
from hive.train.dry_run import Outline, absent_packages, absent_weights

CAPTION_TOKENS = 16  # a usual length of CC3M's captions with BOS


@dataclasses.dataclass(frozen=True)
class Found:
    """What of the run's needs is here already."""

    pairs: Pairs | None
    """The whole set: the held-out pairs are in it."""
    tokenizer: Tokenizer | None
    missing: list[str]
    """A sentence for everything that the run needs and this machine lacks."""


def outline(config: Config) -> Outline:
    """The run without weights or data: shapes come from the configuration wherever weights are missing."""
    found = find(config)
    pairs, text_tokens, data_line = _measure_data(config, found)
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
        missing=found.missing,
    )


def find(config: Config) -> Found:
    """Looks for weights, data and tokenizer, and downloads nothing."""
    pairs = tokenizer = None
    absent = absent_weights(config.vision, config.language)
    missing = [*absent.values(), *absent_packages(config.vision)]
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
