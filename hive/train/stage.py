"""One stage of a run: the parameters that it trains, with their optimiser, its data and its steps."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from hive.config import RunConfig, Schedule
from hive.data.loader import batches
from hive.data.prefetch import Prefetcher
from hive.data.text import Batch, Encoder
from hive.distributed import World
from hive.model.vision import Encode
from hive.optimizer import build_optimizer, warmup_steps
from hive.stages import enter_stage, stage_steps
from hive.train.step import train_step
from hive.train.task import Task, TrainingSet


@dataclass(frozen=True, eq=False, kw_only=True)
class Stage:
    """What the loop needs to train one stage; dropped at its end, to free the optimiser and a frozen tower's copy."""

    number: int
    """Counted from 1."""
    schedule: Schedule
    parts: frozenset[str]
    """Names in `model.parts()` of the parts that are trained."""
    data: TrainingSet
    steps: int
    """Optimiser steps from the stage's beginning to its end."""
    parameters: dict[str, nn.Parameter]
    """The trained parameters by name."""
    optimizer: torch.optim.AdamW
    encode: Encode
    """The function that encodes images: the tower, or a frozen copy of it."""


def begin_stage(task: Task[RunConfig, Encoder], number: int, optimizer_state: dict[str, torch.Tensor]) -> Stage:
    """The stage, ready to be trained: exactly the parts that it trains have gradients.

    `optimizer_state` holds a checkpoint's tensors of the optimiser by name; empty for a stage that starts.
    """
    parts, schedule, data = task.trained_parts(number), task.config.schedule(number), task.sets[number]
    parameters = enter_stage(task.model, parts)
    encode = task.encode(parts)
    optimizer = build_optimizer(parameters, schedule)
    _load_optimizer(optimizer, parameters, optimizer_state)
    return Stage(
        number=number,
        schedule=schedule,
        parts=parts,
        data=data,
        steps=stage_steps(task.config, number, data.epoch_pairs),
        parameters=parameters,
        optimizer=optimizer,
        encode=encode,
    )


def _load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], saved: dict[str, torch.Tensor]
) -> None:
    """Puts the saved moments and step counts into the optimiser."""
    for name, parameter in parameters.items():
        prefix = f"optimizer.{name}."
        state = {
            key.removeprefix(prefix): value.to(parameter.device)
            for key, value in saved.items()
            if key.startswith(prefix)
        }
        if state:
            optimizer.state[parameter] = state


def stage_batches(
    task: Task[RunConfig, Encoder], stage: Stage, world: World, *, first_step: int, steps: int
) -> Generator[list[Batch], None, None]:
    """This process's micro-batches of `steps` steps of the stage from `first_step` on; close it, as `batches`."""
    config = task.config
    return batches(
        stage.data.pairs,
        task.tokenizer,
        task.model.tower.spec,
        config.dataset,
        seed=4 * config.seed + stage.number,
        batch_size=stage.schedule.batch_size,
        micro_batch_size=config.micro_batch_size,
        first_step=first_step,
        steps=steps,
        rank=world.rank,
        world=world.size,
        augment=config.dataset.augment,
        pin=world.device.type == "cuda",
    )


def stage_step(
    task: Task[RunConfig, Encoder],
    stage: Stage,
    micro_batches: Sequence[Batch],
    rate: float,
    *,
    world: World,
    prefetch: Prefetcher,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Takes one optimiser step at learning rate `rate`; returns loss and gradient norm as `step.train_step` does.

    Where no process has a usable sample, nothing is updated, and it returns None.
    """
    tokens = world.sum(sum(batch.token_count for batch in micro_batches))
    if tokens == 0:
        return None
    return train_step(
        partial(task.model, encode=stage.encode),
        stage.optimizer,
        prefetch(batch for batch in micro_batches if batch.token_count),
        tokens=tokens,
        rate=rate,
        clip=stage.schedule.clip,
        world=world,
    )


def summary(stage: Stage, task: Task[RunConfig, Encoder]) -> str:
    """What trains in the stage, and how, in two lines."""
    trained = {name: sum(p.numel() for p in part if p.requires_grad) for name, part in task.model.parts().items()}
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in trained.items() if count)
    total = sum(parameter.numel() for parameter in stage.parameters.values())
    schedule = stage.schedule
    return (
        f"\nstage {stage.number} trains {total / 1e6:.2f} M parameters ({parts})\n"
        f"{stage.steps} steps of {schedule.batch_size} {task.unit}, lr {schedule.peak_lr:g} to {schedule.min_lr:g}, "
        f"warm-up {warmup_steps(schedule, stage.steps)}, clip {schedule.clip:g}"
    )
