"""The images of each step. The processes that decode images import this module, so it needs numpy alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hive.data.order import indices


@dataclass(frozen=True)
class TrainingPlan(Sequence[np.ndarray]):
    """Item k has the indices of the images of step k, int64 [R, B]; each of R seeds shuffles the images differently."""

    chosen: np.ndarray
    """Indices of the images to train on."""
    seeds: int
    batch_size: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step):
        if not 0 <= step < self.steps:
            raise IndexError(step)
        orders = [
            indices(len(self.chosen), seed, step * self.batch_size, self.batch_size) for seed in range(self.seeds)
        ]
        return self.chosen[np.array([[index for _, index in order] for order in orders])]


@dataclass(frozen=True)
class Flat(Sequence[np.ndarray]):
    """A plan whose items are flattened to one dimension."""

    plan: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step):
        return self.plan[step].reshape(-1)


def in_order(chosen: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Returns batches [1, B] of the indices `chosen`, which all seeds share."""
    return [chosen[None, start : start + batch_size] for start in range(0, len(chosen), batch_size)]
