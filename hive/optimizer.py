"""The optimiser of a stage, and how its learning rate rises and falls (paper, section 7)."""

import math

import torch
from torch import nn

from hive.config import Schedule


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
