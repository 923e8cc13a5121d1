"""Losses, speed and waiting time of a stage, passed to telemetry every few steps."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from hive.data.ledger import Ledger
from hive.data.text import BadSample, Batch
from hive.distributed import World
from hive.errors import UserError
from hive.train.telemetry import Telemetry, peak_memory_gb


@dataclass
class _Interval:
    """What was counted since the last report."""

    pending: list[tuple[dict[str, Any], torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """Record, loss and gradient norm of each step, still on the device."""
    bad: list[BadSample] = field(default_factory=list)
    samples: int = 0
    """Those that could be read; not all have an image."""
    images: int = 0
    tokens: int = 0
    flops: float = 0.0
    waited: float = 0.0
    """Seconds spent waiting for data."""


class Meter:
    """Collects the numbers of a stage's steps; losses stay on the device until they are reported."""

    def __init__(
        self,
        telemetry: Telemetry,
        world: World,
        flops_of: Callable[[Batch], float],
        *,
        stage: int,
        done: int,
        steps: int,
    ) -> None:
        """`flops_of` a micro-batch, forward and backward; `done` of the stage's `steps` were taken before."""
        self.telemetry, self.world, self.flops_of = telemetry, world, flops_of
        self.stage, self.done, self.steps = stage, done, steps
        self._started = self._reported = time.perf_counter()
        self._first = done
        self._all_images, self._all_waited = 0.0, 0.0
        self._interval = _Interval()

    def timed(self, data: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """Yields the same batches, and adds up the time spent waiting for them."""
        iterator = iter(data)
        while True:
            before = time.perf_counter()
            item = next(iterator, None)
            self._interval.waited += time.perf_counter() - before
            if item is None:
                return
            yield item

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time that passes inside out of the speed."""
        before = time.perf_counter()
        yield
        passed = time.perf_counter() - before
        self._started += passed
        self._reported += passed

    def add(
        self, micro_batches: Sequence[Batch], result: tuple[torch.Tensor, torch.Tensor] | None, step: int, rate: float
    ) -> None:
        """Counts a step: its batches, and (this process's share of the mean loss, the gradient's norm before clipping).

        `result` is None for a step without an update, which has neither.
        """
        self.done += 1
        interval = self._interval
        for batch in micro_batches:
            interval.samples += batch.samples
            interval.images += batch.images
            interval.tokens += batch.token_count
            interval.flops += self.flops_of(batch)
            interval.bad += batch.bad
        if result is not None:
            interval.pending.append(({"step": step, "stage": self.stage, "lr": rate}, *result))

    def report(self, ledger: Ledger) -> None:
        """Passes the losses and the speed since the last report to telemetry, and bad samples to the ledger.

        Raises `UserError` for a loss or a norm that is not finite.
        """
        interval, self._interval = self._interval, _Interval()
        counted = (interval.samples, interval.bad, interval.images, interval.tokens, interval.flops)
        images = tokens = flops = 0.0
        for samples, bad, *amounts in self.world.gather(counted):  # processes may have different numbers of samples
            ledger.count(samples, bad)
            images, tokens, flops = (total + one for total, one in zip((images, tokens, flops), amounts, strict=True))
        losses: list[float] = []
        norms: list[float] = []
        if interval.pending:  # on all processes or on none
            losses = self.world.sum_tensor(torch.stack([loss for _, loss, _ in interval.pending])).tolist()
            norms = torch.stack([norm for _, _, norm in interval.pending]).tolist()
        now = time.perf_counter()
        seconds = now - self._reported
        speed = {
            "images_per_second": images / seconds,
            "tokens_per_second": tokens / seconds,
            "tflops": flops / seconds / 1e12,
            "data_wait": interval.waited / seconds,
            "peak_memory_gb": peak_memory_gb(self.world.device),
        }
        records: list[dict[str, Any]] = []
        for (record, _, _), loss, norm in zip(interval.pending, losses, norms, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                if records:
                    self.telemetry.record_steps(records, self.done, self.steps, 0.0)
                raise UserError(
                    f"The loss at step {record['step']} is {loss} and its gradient's norm {norm}: start again "
                    f"with a lower --schedule{self.stage}.peak-lr; the last checkpoint is from before it."
                )
            records.append({**record, "loss": loss, "gradient_norm": norm, **speed})
        seconds_left = (now - self._started) / (self.done - self._first) * (self.steps - self.done)
        if records:
            self.telemetry.record_steps(records, self.done, self.steps, seconds_left)
        self._all_images += images
        self._all_waited += interval.waited
        self._reported = now

    def summary(self) -> str:
        """One line on the stage so far."""
        seconds = self._reported - self._started
        return (
            f"stage {self.stage} took {seconds:.0f} s: {self._all_images / seconds:,.0f} images/s, "
            f"{100 * self._all_waited / seconds:.1f} % of the time spent waiting for data"
        )
