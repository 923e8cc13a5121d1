"""What a stage trains, for how many steps, with which optimiser and learning rate (paper, sections 3.5 and 7)."""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

from hive.config import Config, RunConfig, Schedule
from hive.data.order import steps


def stage_steps(config: RunConfig, stage: int, pairs: int) -> int:
    """Optimiser steps of a stage over this many training pairs."""
    schedule = config.schedule(stage)
    whole = steps(schedule.epochs, pairs, schedule.batch_size)
    return min(whole, config.max_steps) if config.max_steps else whole


def trained_parts(config: Config, stage: int) -> frozenset[str]:
    """Names in `model.parts()` of the parts that a stage of pre-training trains."""
    if stage == 1:
        return frozenset({"projector"} if config.fusion == "joint" else config.stage1.split("+"))
    return frozenset({"projector", "fusion", "language"} | ({"tower"} if stage == 3 else set()))


class Trainable(Protocol):
    """A model whose parameters are grouped into named parts."""

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that a loss can reach, by the part's name."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """As `nn.Module.requires_grad_`."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """As `nn.Module.named_parameters`."""


def enter_stage(model: Trainable, parts: frozenset[str]) -> dict[str, nn.Parameter]:
    """Sets `requires_grad` on the parameters of exactly the named parts, and returns these by name."""
    model.requires_grad_(False)
    for name, parameters in model.parts().items():
        for parameter in parameters:
            parameter.requires_grad_(name in parts)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_optimizer(parameters: dict[str, nn.Parameter], schedule: Schedule) -> torch.optim.AdamW:
    """Fully decoupled AdamW (Loshchilov and Hutter 2019): theta <- theta (1 - wd lr_t / lr_peak) - lr_t Adam(...).

    torch multiplies the decay by the learning rate, so it is divided by the peak here. Matrices decay; biases, norms
    and gates don't.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in parameters.items():
        matrix = parameter.ndim >= 2 and "norm" not in name and not name.endswith("bias")
        (decayed if matrix else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay / schedule.peak_lr},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.peak_lr, betas=(schedule.beta1, schedule.beta2), fused=True)


def warmup_steps(schedule: Schedule, total: int) -> int:
    """The number of steps, of `total`, over which the learning rate rises."""
    return math.ceil(schedule.warmup * total)


def learning_rate(schedule: Schedule, step: int, total: int) -> float:
    """The learning rate of 0-based `step` of `total`: a linear warm-up, then a cosine to the minimum."""
    warmup = warmup_steps(schedule, total)
    if step < warmup:
        return schedule.peak_lr * (step + 1) / warmup
    progress = (step - warmup + 1) / max(1, total - warmup)
    return schedule.min_lr + (schedule.peak_lr - schedule.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
