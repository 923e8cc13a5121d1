"""--dry-run: what a run would train and cost, and what it lacks, without a GPU, weights or data."""

import dataclasses
from pathlib import Path

import torch

from hive.config import Config
from hive.data.pairs import open_pairs
from hive.data.text import Batch, load_tokenizer
from hive.efficiency.flops import step_flops
from hive.efficiency.memory import step_bytes
from hive.errors import UserError
from hive.model.build import Model, build_model
from hive.model.pretrained import how_to_get, is_present
from hive.stages import enter_stage, stage_steps, trained_parts

CC3M_PAIRS = 595_375  # LLaVA's CC3M-595K, the paper's data, where no other can be counted
CAPTION_TOKENS = 16  # a usual length of its captions with BOS


def report(config: Config) -> str:
    """The dry run's tables; shapes come from the configuration wherever weights are missing."""
    pairs, text_tokens, data_line = _measure_data(config)
    lines = [f"recipe {config.recipe}, method {config.method}", data_line, ""]
    model = _on_meta(config)
    lines += [_part_row(model), ""]
    lines.append(
        f"{'stage':<7}{'trained':>12}{'steps':>8}{'batch':>7}{'GFLOP an image':>17}{'TFLOP a step':>15}"
        f"{'peak memory':>14}  trains"
    )
    for stage in config.stages:
        lines.append(_stage_row(config, stage, pairs, text_tokens))
    lines += [
        "",
        "Peak memory is that of one process with bf16 autocast: what torch allocates, without the CUDA context.",
        "",
    ]
    return "\n".join(lines + missing(config))


def missing(config: Config) -> list[str]:
    """A sentence for everything that the run needs and this machine lacks."""
    sentences = []
    for weights, flag in ((config.vision.weights, "--vision.weights"), (config.language.weights, "--language.weights")):
        if weights is not None and not is_present(weights):
            sentences.append(f"missing: {how_to_get(weights, flag)}")
    try:
        open_pairs(config.data, config.image_root)
    except UserError as error:
        sentences.append(f"missing: {error}")
        if Path(config.data).name == "chat.json":
            sentences.append(
                "         LLaVA's CC3M-595K: `hf download liuhaotian/LLaVA-CC3M-Pretrain-595K --repo-type dataset "
                f"--local-dir {Path(config.data).parent}`, then unzip its images.zip into {config.image_root}."
            )
    return sentences or ["Nothing is missing."]


def _measure_data(config: Config) -> tuple[int, int, str]:
    try:
        pairs = open_pairs(config.data, config.image_root)
        tokenizer = load_tokenizer(config.language.tokenizer or config.language.weights)
    except UserError:
        return (
            CC3M_PAIRS,
            CAPTION_TOKENS,
            (
                f"data {config.data} can't be read yet: {CC3M_PAIRS:,} pairs with "
                f"{CAPTION_TOKENS} text tokens each are assumed"
            ),
        )
    sample = pairs.captions[:: max(1, len(pairs) // 1000)]
    lengths = [len(tokenizer.encode(caption, config.dataset.max_text_tokens)) - 1 for caption in sample]
    mean = max(1, round(sum(lengths) / len(lengths)))
    return len(pairs), mean, f"data {config.data}: {len(pairs):,} training pairs with {mean} text tokens on average"


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


def _stage_row(config: Config, stage: int, pairs: int, text_tokens: int) -> str:
    schedule, parts = config.schedule(stage), trained_parts(config, stage)
    model = _on_meta(config)
    trained = sum(parameter.numel() for parameter in enter_stage(model, parts).values())
    flops = sum(cost.total for cost in step_flops(model, parts, 1, [text_tokens]).values())
    batch = empty_batch(min(config.micro_batch_size, schedule.batch_size), text_tokens, model)
    peak = step_bytes(model, parts, schedule, batch, torch.bfloat16)
    names = ", ".join(name for name in model.parts() if name in parts)
    return (
        f"{stage:<7}{trained / 1e6:>10,.2f} M{stage_steps(config, stage, pairs):>8,}{schedule.batch_size:>7,}"
        f"{flops / 1e9:>17,.1f}{flops * schedule.batch_size / 1e12:>15,.2f}{peak / 1e9:>11,.1f} GB  {names}"
    )


def empty_batch(samples: int, text_tokens: int, model: Model) -> Batch:
    """A micro-batch without data."""
    size, tokens = model.tower.image_size, samples * text_tokens
    with torch.device("meta"):
        return Batch(
            pixels=torch.empty(samples, 3, size, size, dtype=torch.uint8),
            tokens=torch.empty(tokens, dtype=torch.int64),
            targets=torch.empty(tokens, dtype=torch.int64),
            positions=torch.empty(tokens, dtype=torch.int64),
            cu_seqlens=torch.empty(samples + 1, dtype=torch.int32),
            max_seqlen=text_tokens,
        )
