"""One stage of a run: the parameters that it trains, with their optimiser, its data and its number of steps."""

from dataclasses import dataclass

import torch
from torch import nn

from hive.config import RunConfig, Schedule
from hive.data.text import Encoder
from hive.model.vision import Encode
from hive.optimizer import build_optimizer, warmup_steps
from hive.stages import enter_stage, stage_steps
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
