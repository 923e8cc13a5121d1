"""Losses, speed and waiting time of a stage, handed on to telemetry every few steps."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from hive.data.ledger import Ledger
from hive.data.text import BadSample, Batch
from hive.distributed import World
from hive.errors import UserError
from hive.train.telemetry import Telemetry, peak_memory_gb


class Meter:
    """Counts a stage's steps between two reports; losses stay on the device until then."""

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
        self._all_images, self._all_waited = 0, 0.0
        self._clear()

    def _clear(self) -> None:
        self._pending: list[tuple[dict[str, Any], torch.Tensor, torch.Tensor]] = []
        self._bad: list[BadSample] = []
        self._images = self._tokens = 0
        self._flops = self._waited = 0.0

    def timed(self, data: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """The same batches; the time spent waiting for them is added up."""
        iterator = iter(data)
        while True:
            before = time.perf_counter()
            item = next(iterator, None)
            self._waited += time.perf_counter() - before
            if item is None:
                return
            yield item

    def add(
        self, micro_batches: Sequence[Batch], loss: torch.Tensor, norm: torch.Tensor, step: int, rate: float
    ) -> None:
        """Counts a step: this process's share of the mean loss, the gradient's norm before clipping."""
        self.done += 1
        for batch in micro_batches:
            self._images += batch.images
            self._tokens += batch.token_count
            self._flops += self.flops_of(batch)
            self._bad += batch.bad
        self._pending.append(({"step": step, "stage": self.stage, "lr": rate}, loss, norm))

    def report(self, ledger: Ledger) -> None:
        """Reads the losses and passes them on; `UserError` at a loss that is no number or too many bad samples."""
        for samples, bad in self.world.gather((self._images, self._bad)):
            ledger.count(samples, tuple(bad))
        losses = self.world.sum_tensor(torch.stack([loss for _, loss, _ in self._pending])).tolist()
        norms = torch.stack([norm for _, _, norm in self._pending]).tolist()
        now = time.perf_counter()
        seconds = now - self._reported
        speed = {
            "images_per_second": self.world.size * self._images / seconds,
            "tokens_per_second": self.world.size * self._tokens / seconds,
            "tflops": self.world.size * self._flops / seconds / 1e12,
            "data_wait": self._waited / seconds,
            "peak_memory_gb": peak_memory_gb(self.world.device),
        }
        records: list[dict[str, Any]] = []
        for (record, _, _), loss, norm in zip(self._pending, losses, norms, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                if records:
                    self.telemetry.steps(records, self.done, self.steps, 0.0)
                raise UserError(
                    f"The loss at step {record['step']} is {loss} and its gradient's norm {norm}: start again "
                    f"with a lower --schedule{self.stage}.peak-lr; the last checkpoint is from before it."
                )
            records.append({**record, "loss": loss, "gradient_norm": norm, **speed})
        left = (now - self._started) / (self.done - self._first) * (self.steps - self.done)
        self.telemetry.steps(records, self.done, self.steps, left)
        self._all_images += self._images
        self._all_waited += self._waited
        self._reported = now
        self._clear()

    def summary(self) -> str:
        """One line on the stage so far."""
        seconds = self._reported - self._started
        return (
            f"stage {self.stage} took {seconds:.0f} s: {self.world.size * self._all_images / seconds:,.0f} images/s, "
            f"{100 * self._all_waited / seconds:.1f} % of the time spent waiting for data"
        )
