"""What a run needs before its first step: data, a fitting tokenizer, a folder of its own, its place in the stages."""

from pathlib import Path
from typing import NamedTuple

import torch

from hive.config import Config, LanguageConfig, RunConfig, Schedule
from hive.data.pairs import EMBEDDED_HELDOUT, Pairs, open_pairs, split_heldout
from hive.data.text import Encoder, Tokenizer, load_tokenizer
from hive.errors import UserError
from hive.model.build import Model
from hive.model.eight_bit import check_eight_bit
from hive.model.fusion import CrossAttentionBlock
from hive.stages import warmup_steps
from hive.train.cli import CONFIG_FILE
from hive_kernels.backends import CROSS_ATTENTION


class TrainingSet(NamedTuple):
    """What a stage trains and is evaluated on."""

    pairs: Pairs
    heldout: dict[str, Pairs]
    """Splits by name."""
    epoch_pairs: int
    """Pairs that make an epoch's steps."""


def open_data(config: Config) -> TrainingSet:
    """The pre-training set.

    An epoch is as long as the whole set, held-out pairs included, so that the paper's numbers of steps hold.
    """
    pairs = open_pairs(config.data, config.image_root)
    if config.data == "embedded":
        heldout = {split: open_pairs("embedded", None, split) for split in EMBEDDED_HELDOUT}
        return TrainingSet(pairs, heldout, len(pairs))
    train, held_out = split_heldout(pairs, config.dataset.heldout_pairs, config.seed)
    return TrainingSet(train, {"held_out": held_out}, len(pairs))


def open_tokenizer(config: LanguageConfig) -> Tokenizer:
    """The language model's tokenizer; another one beside pretrained weights is refused, since ids would not fit."""
    tokenizer = load_tokenizer(config.tokenizer or config.weights)
    if config.tokenizer and config.weights and load_tokenizer(config.weights).fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"--language.tokenizer {config.tokenizer} differs from the tokenizer of --language.weights "
            f"{config.weights}, whose embeddings it would mix up: leave the flag out, or give the weights' own one."
        )
    return tokenizer


def check_batches(config: RunConfig, processes: int) -> None:
    """Refuses batch sizes that can't be shared out evenly among the processes."""
    for stage in config.stages:
        batch = config.schedule(stage).batch_size
        micro = min(config.micro_batch_size, batch)
        if batch % (micro * processes):
            raise UserError(
                f"--batch-size is {batch} in stage {stage}, but with {processes} processes it must be a multiple of "
                f"{processes} times --micro-batch-size ({micro}): change one of them."
            )


def check_stages(config: RunConfig, stage: int, unfinished: bool) -> None:
    """Refuses --stages that would leave out the rest of the stage that a resumed run is in."""
    if (unfinished and stage not in config.stages) or max(config.stages) < stage:
        chosen = ",".join(map(str, config.stages))
        raise UserError(
            f"--stages is {chosen}, but the run stopped in the middle of stage {stage}: include {stage}."
            if unfinished
            else f"--stages is {chosen}, but the run has already finished stage {stage}: add a later one."
        )


def check_frozen_precision(config: RunConfig, model: Model) -> None:
    """Refuses an 8-bit tower where it can't run."""
    if config.vision.frozen_precision != "autocast":
        check_eight_bit(config.vision.frozen_precision, model.tower, config.compile)


def check_kernel(model: Model, backend: str, device: torch.device) -> None:
    """Refuses a backend whose cross-attention doesn't support the model's heads, or the dtype of training."""
    limits = CROSS_ATTENTION.limits(backend)
    if limits is None or not any(isinstance(module, CrossAttentionBlock) for module in model.modules()):
        return
    width = model.language.model.config.head_dim
    assert width is not None  # the configuration fills it in
    if not limits.allows(width):
        raise UserError(
            f"--kernel is {backend}, which serves heads of {limits.head_sizes}, but the language model's are {width} "
            "wide: take --kernel torch, or another --language.heads."
        )
    if device.type != "cuda" and torch.float32 not in limits.dtypes:
        raise UserError(
            f"--kernel is {backend}, which has no fp32, but training on a CPU is in fp32: take --kernel torch."
        )


def check_vocabulary(model: Model, tokenizer: Encoder) -> None:
    """Refuses a tokenizer whose ids the model has no embedding for."""
    rows = model.language.model.config.vocab_size
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"The tokenizer has {tokenizer.vocab_size} tokens, but the language model only {rows} embeddings: give "
            "the model's own tokenizer in --language.tokenizer, or raise --language.vocab-size."
        )


def check_out(config: RunConfig, resume: bool) -> None:
    """Refuses a run folder that holds another run."""
    if config.out is not None and not resume and (config.out / CONFIG_FILE).exists():
        raise UserError(
            f"--out {config.out} already holds a run: continue it with --resume {config.out}, or give another folder."
        )


def make_run_folder(config: RunConfig) -> Path:
    """Makes the run's folder: --out, or the next free runs/<recipe>-<method>-N, which no other run can take as well."""
    try:
        if config.out is not None:
            config.out.mkdir(parents=True, exist_ok=True)
            return config.out
        Path("runs").mkdir(exist_ok=True)
        number = 1
        while True:
            folder = Path("runs") / f"{config.recipe}-{config.trains}-{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                continue
            return folder
    except OSError as error:
        wanted = config.out or Path("runs")
        raise UserError(
            f"The run folder {wanted} can't be made ({error.strerror}): give a folder that can be written in --out."
        ) from error


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], saved: dict[str, torch.Tensor]
) -> None:
    """Gives the optimiser the saved moments and step counts."""
    for name, parameter in parameters.items():
        prefix = f"optimizer.{name}."
        state = {
            key.removeprefix(prefix): value.to(parameter.device)
            for key, value in saved.items()
            if key.startswith(prefix)
        }
        if state:
            optimizer.state[parameter] = state


def stage_summary(
    model: Model, parameters: dict[str, torch.nn.Parameter], stage: int, schedule: Schedule, steps: int, unit: str
) -> str:
    """What trains in the stage, and how; `unit` is what a batch consists of."""
    trained = {name: sum(p.numel() for p in part if p.requires_grad) for name, part in model.parts().items()}
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in trained.items() if count)
    total = sum(parameter.numel() for parameter in parameters.values())
    return (
        f"\nstage {stage} trains {total / 1e6:.2f} M parameters ({parts})\n"
        f"{steps} steps of {schedule.batch_size} {unit}, lr {schedule.peak_lr:g} to {schedule.min_lr:g}, "
        f"warm-up {warmup_steps(schedule, steps)}, clip {schedule.clip:g}"
    )
