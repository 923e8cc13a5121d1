"""Trains all heads of all kinds in one pass, and counts the images that they classify rightly."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hive.config import Schedule
from hive.data.order import steps
from hive.optimizer import learning_rate
from hive.probe.adamw import BatchedAdamW
from hive.probe.heads import AttentionHeads, Heads, LinearHeads, losses
from hive.probe.inputs import Source
from hive.probe.plan import TrainingPlan, in_order
from hive.probe.protocol import HeadName, Protocol
from hive.probe.tower import ProbedTower
from hive.train.telemetry import duration

REPORTS = 10  # lines of progress


def fresh_heads(
    names: Sequence[HeadName], tower: ProbedTower, classes: int, protocol: Protocol
) -> dict[HeadName, Heads]:
    """Returns untrained heads of each kind at all seeds and grid points, on the tower's device."""
    seeds, points = list(range(protocol.seeds)), len(protocol.grid)
    return {
        name: (
            AttentionHeads(seeds, points, tower.width, classes, tower.heads)
            if name == "attention"
            else LinearHeads(seeds, points, tower.width, classes)
        ).to(tower.device)
        for name in names
    }


def total_steps(protocol: Protocol, images: int) -> int:
    """Returns the number of training steps over this many images."""
    return steps(protocol.epochs, images, min(protocol.batch_size, images))


def learning_rates(protocol: Protocol, step: int, total: int) -> Tensor:
    """The learning rate of each grid point at a 0-based step, [G]."""
    schedules = (
        Schedule(peak_lr=peak, min_lr=min(peak, protocol.min_lr), warmup=protocol.warmup) for peak, _ in protocol.grid
    )
    return torch.tensor([learning_rate(schedule, step, total) for schedule in schedules])


def train(
    heads: Mapping[HeadName, Heads],
    source: Source,
    labels: np.ndarray,
    chosen: np.ndarray,
    protocol: Protocol,
    say: Callable[[str], None],
) -> None:
    """Trains the heads in place on the images at the indices `chosen`.

    `labels` has the class of every image of the source, int64. `say` gets ten lines of progress.
    """
    device = next(next(iter(heads.values())).parameters()).device
    decay = torch.tensor([decay for _, decay in protocol.grid], device=device)
    optimizers = {name: BatchedAdamW(head.parameters(), decay) for name, head in heads.items()}
    total = total_steps(protocol, len(chosen))
    plan = TrainingPlan(chosen, protocol.seeds, min(protocol.batch_size, len(chosen)), total)
    tenth = -(-total // REPORTS)
    start = time.monotonic()
    for step, inputs in enumerate(source.batches(plan)):
        targets = torch.from_numpy(labels[plan[step]]).to(device)
        rate = learning_rates(protocol, step, total).to(device)
        for name, head in heads.items():
            loss = losses(head(inputs[name]), targets)
            loss.sum().backward()
            optimizers[name].step(rate, protocol.clip)
        if (step + 1) % tenth == 0 or step + 1 == total:
            left = duration((time.monotonic() - start) / (step + 1) * (total - step - 1))
            say(f"step {step + 1:>{len(str(total))}}/{total}  {left} left")


@torch.no_grad()
def count_right(
    heads: Mapping[HeadName, Heads], source: Source, labels: np.ndarray, chosen: np.ndarray, batch_size: int
) -> dict[HeadName, Tensor]:
    """How many of the images at `chosen` each head gets right, int64 [R, G] by kind."""
    plan = in_order(chosen, batch_size)
    right: dict[HeadName, Tensor] = {}
    for step, inputs in enumerate(source.batches(plan)):
        for name, head in heads.items():
            logits = head(inputs[name])
            targets = torch.from_numpy(labels[plan[step]]).to(logits.device).unsqueeze(2)
            hits = (logits.argmax(3) == targets).sum(1).cpu()
            right[name] = right[name] + hits if name in right else hits
    return right
