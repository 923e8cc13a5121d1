"""Losses, speed and waiting time of a stage, handed on to telemetry every few steps."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hive.data.text import Batch
from hive.efficiency.flops import step_flops, text_lengths
from hive.errors import UserError
from hive.telemetry import peak_memory_gb

if TYPE_CHECKING:
    from hive.train.trainer import Trainer


class Meter:
    """Losses, speed and waiting time of a stage, handed on to telemetry every few steps."""

    def __init__(self, trainer: Trainer, parts: frozenset[str], steps: int) -> None:
        self.trainer, self.parts, self.steps = trainer, parts, steps
        self.pending: list[tuple[dict[str, Any], torch.Tensor, torch.Tensor]] = []
        self.images = self.tokens = 0
        self.flops = 0.0
        self.started = self.window = time.perf_counter()
        self.waited = self.window_waited = 0.0
        self.first_step, self.total_images = trainer.stage_step, 0

    def timed(self, data: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """The same batches; the time spent waiting for them is added up."""
        iterator = iter(data)
        while True:
            before = time.perf_counter()
            item = next(iterator, None)
            self.window_waited += time.perf_counter() - before
            if item is None:
                return
            yield item

    def add(self, micro_batches: Sequence[Batch], loss: torch.Tensor, norm: torch.Tensor, rate: float) -> None:
        """Counts a step; loss and norm stay on the device until `flush`."""
        trainer = self.trainer
        for batch in micro_batches:
            trainer.ledger.count(batch.samples, batch.bad)
            self.images += batch.samples
            self.tokens += batch.token_count
            costs = step_flops(trainer.model, self.parts, batch.samples, text_lengths(batch.cu_seqlens.tolist()))
            self.flops += sum(cost.total for cost in costs.values())
        self.pending.append(({"step": trainer.step, "stage": trainer.stage, "lr": rate}, loss, norm))

    def flush(self) -> None:
        """Reads the losses and reports; a loss that is no number ends the run before anything is saved."""
        losses = self.trainer.world.sum_tensor(torch.stack([loss for _, loss, _ in self.pending])).tolist()
        norms = torch.stack([norm for _, _, norm in self.pending]).tolist()
        now = time.perf_counter()
        seconds, world = now - self.window, self.trainer.world.size
        speed = {
            "images_per_second": world * self.images / seconds, "tokens_per_second": world * self.tokens / seconds,
            "tflops": self.flops / seconds / 1e12, "data_wait": self.window_waited / seconds,
            "peak_memory_gb": peak_memory_gb(self.trainer.world.device),
        }
        records = []
        for (record, _, _), loss, norm in zip(self.pending, losses, norms, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise UserError(f"The loss at step {record['step']} is {loss} and its gradient's norm {norm}: lower the "
                                f"peak_lr of schedule{record['stage']}, then continue with "
                                f"{self.trainer.resume_command()} from the last checkpoint or start again.")
            records.append({**record, "loss": loss, "gradient_norm": norm, **speed})
        done = self.trainer.stage_step
        left = (now - self.started) / (done - self.first_step) * (self.steps - done)
        self.trainer.telemetry.steps(records, done, self.steps, left)
        self.waited += self.window_waited
        self.total_images += self.images
        self.pending, self.images, self.tokens, self.flops = [], 0, 0, 0.0
        self.window, self.window_waited = now, 0.0

    def summary(self) -> str:
        """One line on the whole stage."""
        seconds = time.perf_counter() - self.started
        return (f"stage {self.trainer.stage} took {seconds:.0f} s, {self.total_images / seconds:,.0f} images/s a process, "
                f"{100 * self.waited / seconds:.1f} % of it waiting for data")
