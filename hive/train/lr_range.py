"""--lr-range-test: tries learning rates from 1e-6 to 1 on one stage, and suggests one (Smith 2017, section 3.3).

The model is a throwaway: it is trained from where the stage's run would start, at a rate that grows exponentially from
step to step, and nothing of it is kept but the losses.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from hive.config import RunConfig
from hive.data.prefetch import Prefetcher
from hive.data.text import Encoder
from hive.distributed import World
from hive.errors import UserError
from hive.files import replace_text
from hive.run_folder import make_run_folder
from hive.train.loss_curve import smoothed
from hive.train.stage import begin_stage, stage_batches, stage_step
from hive.train.task import Task

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
HALF = 3  # steps on each side over which losses are averaged
DIVERGED = 1.5
"""The test ends where the mean of the last losses is so many times the lowest such mean."""
POINTS, PICTURE = "lr_range.json", "lr_range.png"


@dataclass(frozen=True)
class RangeTest:
    """The losses by learning rate."""

    stage: int
    rates: list[float]
    losses: list[float]
    """Of the batch before the step at the rate in the same place, nats a token."""

    @property
    def smooth(self) -> list[float]:
        """Centred means of the losses."""
        return smoothed(self.losses, HALF)

    @property
    def lowest(self) -> int:
        """The place of the lowest smoothed loss."""
        return min(range(len(self.rates)), key=self.smooth.__getitem__)

    @property
    def steepest(self) -> int | None:
        """Where the smoothed loss falls fastest, before its lowest place; None where it never falls."""
        smooth = self.smooth
        falls = [smooth[place - 1] - smooth[place + 1] for place in range(1, self.lowest)]
        return 1 + falls.index(max(falls)) if falls and max(falls) > 0 else None

    @property
    def suggested(self) -> float | None:
        """The rate in the place of `steepest`, to two digits."""
        return None if self.steepest is None else float(f"{self.rates[self.steepest]:.1e}")


def run_range_test(task: Task[RunConfig, Encoder], number: int, world: World) -> tuple[RangeTest, Path]:
    """Tries the rates on a stage, counted from 1, and writes losses and picture into a new folder.

    Returns the losses and the folder.
    """
    folder = world.from_main(make_run_folder(task.config, "lr-range") if world.is_main else Path())
    stage = begin_stage(task, number, {})
    prefetch = Prefetcher(world.device)
    rates: list[float] = []
    losses: list[float] = []
    with closing(stage_batches(task, stage, world, first_step=0, steps=STEPS)) as data:
        for place, micro_batches in enumerate(data):
            rate = LOWEST * (HIGHEST / LOWEST) ** (place / (STEPS - 1))
            step = stage_step(task, stage, micro_batches, rate, world=world, prefetch=prefetch)
            if step is None:  # none of its samples can be used
                continue
            loss = world.sum(step[0].item())
            if not isfinite(loss):
                break
            rates.append(rate)
            losses.append(loss)
            if diverges(losses):
                break
    if not rates:
        raise UserError(f"No step of stage {number} has a sample that can be used: {task.check} lists what is wrong.")
    result = RangeTest(number, rates, losses)
    if world.is_main:
        points = [{"lr": rate, "loss": loss} for rate, loss in zip(rates, losses, strict=True)]
        record = {"stage": number, "suggested": result.suggested, "points": points}
        replace_text(folder / POINTS, json.dumps(record, indent=1) + "\n")
        plot(result, folder / PICTURE)
    return result, folder


def print_range_test(task: Task[RunConfig, Encoder], number: int, world: World) -> None:
    """Runs the test and prints its report."""
    result, folder = run_range_test(task, number, world)
    if world.is_main:
        print(report(result, folder))


def diverges(losses: Sequence[float]) -> bool:
    """Whether the mean of the last losses is more than `DIVERGED` times the lowest such mean."""
    width = 2 * HALF + 1
    means = [sum(losses[max(0, end - width) : end]) / min(width, end) for end in range(1, len(losses) + 1)]
    return means[-1] > DIVERGED * min(means)


def report(result: RangeTest, folder: Path) -> str:
    """A table of one row, and where the picture is."""
    lowest, suggested = result.lowest, result.suggested
    ended = f"{result.rates[-1]:.1e}" if len(result.rates) < STEPS else "never"
    heads = f"{'stage':<7}{'steps':>7}{'first loss':>12}{'lowest loss':>13}{'at lr':>10}{'diverged at':>13}"
    row = (
        f"{result.stage:<7}{len(result.rates):>7}{result.losses[0]:>12.3f}{result.smooth[lowest]:>13.3f}"
        f"{result.rates[lowest]:>10.1e}{ended:>13}{'none' if suggested is None else f'{suggested:.1e}':>15}"
    )
    return "\n".join([f"{heads}{'suggested lr':>15}", row, f"picture     {folder / PICTURE}"])


def plot(result: RangeTest, file: Path) -> None:
    """Draws the losses over the rate, raw and smoothed, and marks the suggested rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(result.rates, result.losses, color="tab:blue", alpha=0.35, linewidth=0.9, label="loss of each step")
    axes.plot(result.rates, result.smooth, color="tab:blue", label=f"mean of {2 * HALF + 1} steps")
    if (place := result.steepest) is not None:
        rate = result.rates[place]
        axes.axvline(rate, color="tab:red", linewidth=0.9)
        axes.plot(rate, result.smooth[place], "o", color="tab:red", label=f"suggested: {result.suggested:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats a token)", ylim=_limits(result.smooth))
    axes.set_title(f"Learning-rate range test, stage {result.stage}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=130)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """The part of the axis that shows the fall: where the loss diverges it may be a thousand times higher."""
    low, first = min(values), values[0]
    margin = 0.3 * (first - low) or 0.1 * first
    return low - margin, first + margin
