"""How heads are trained (paper, Table 4; values that it does not give are the authors' or AIMv2's)."""

from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Annotated, Literal, get_args

from hive.config import Count, Fraction, Positive, PositiveOrZero, Rule

HeadName = Literal["attention", "mean", "cls"]
HEADS: tuple[HeadName, ...] = get_args(HeadName)


@dataclass(frozen=True)
class Protocol:
    """The grid of learning rates and weight decays, and the settings that all grid points share."""

    learning_rates: Annotated[
        tuple[float, ...], Rule("one or more numbers above 0", lambda v: v and all(0 < rate < inf for rate in v))
    ] = (
        5e-5,
        1e-4,
        2e-4,
        3e-4,
        5e-4,
        1e-3,
        2e-3,
    )
    """Peak learning rates of the grid."""
    weight_decays: Annotated[
        tuple[float, ...], Rule("one or more numbers of 0 or more", lambda v: v and all(0 <= w < inf for w in v))
    ] = (
        0.05,
        0.1,
    )
    """Weight decays of the grid, as torch's AdamW counts them."""
    epochs: Positive = 50.0
    """Passes over the training images."""
    batch_size: Count = 512
    """Images in a step of each head."""
    min_lr: PositiveOrZero = 1e-5
    """Learning rate at the end of the cosine."""
    warmup: Fraction = 0.03
    """Share of the steps in which the learning rate rises: 0.03 are 1.5 of 50 epochs."""
    clip: Positive = 3.0
    """Largest norm of a head's gradient."""
    seeds: Count = 3
    """Runs that differ in initial weights, order and augmentation."""
    augment: bool = False
    """Random crops, flips and colours, new in every epoch: the tower then runs in every step, and needs kornia."""

    @property
    def grid(self) -> list[tuple[float, float]]:
        """(learning rate, weight decay) of each grid point."""
        return list(product(self.learning_rates, self.weight_decays))
