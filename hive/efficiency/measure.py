"""Measures a training step on a device: seconds, in all and by part, and memory by several counters."""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch.profiler import ProfilerActivity, profile

from hive.config import Schedule
from hive.cost.methods import Subject, loss_of
from hive.cost.simulate import PeakBytes
from hive.data.prefetch import Prefetcher
from hive.data.text import Batch
from hive.distributed import World
from hive.efficiency.machine import process_bytes, wait
from hive.efficiency.machine import seconds as clocked
from hive.optimizer import build_optimizer
from hive.profiling import PARTS, listening
from hive.stages import enter_stage
from hive.train.step import train_step

WARM_UP = 3  # steps
CLOCKED = 3  # steps whose parts are timed, after one that is not
STEPS = WARM_UP + CLOCKED + 2
"""Steps that `measure` takes in addition to its runs."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measurements of a training step on a device; memory in bytes."""

    seconds: list[float]
    """Seconds of a step, one number for each run."""
    parts: dict[str, float]
    """Seconds of one more step, by part, in the order of `profiling.PARTS`."""
    peak: int
    """Most bytes in tensors: torch's max_memory_allocated on a GPU; on a CPU what the step's operations allocate, on
    top of weights, gradients and the optimiser's state."""
    reserved: int | None = None
    """torch's max_memory_reserved, on a GPU: the allocator's rounding and gaps included."""
    process: int | None = None
    """Bytes of the process by NVML, on a GPU: CUDA's context included."""
    launches: int | None = None
    """Kernels that a step launches, on a GPU."""
    busy: float | None = None
    """Share of a step in which a kernel runs, on a GPU."""
    remark: str = ""
    """What could not be measured, and why."""

    @property
    def median(self) -> float:
        """Median seconds of a step over the runs."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Largest minus smallest seconds of a step, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def measure(
    model: Subject,
    parts: frozenset[str],
    schedule: Schedule,
    batches: Iterator[Batch],
    device: torch.device,
    *,
    runs: int,
    steps_a_run: int,
) -> Measured:
    """Trains `model` for a few steps of a stage, then returns what `runs` runs of `steps_a_run` more steps measure.

    `model` is on `device`, and a step takes one micro-batch. Raises torch.OutOfMemoryError where a step does not fit.
    """
    optimizer = build_optimizer(enter_stage(model, parts), schedule)
    step = make_step(model, parts, schedule, optimizer, batches, device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(WARM_UP):
        step()
    seconds = [_time_steps(step, steps_a_run, device) for _ in range(runs)]
    if not on_gpu:
        parts_of_a_step = _time_parts(step, device)
        peak = _measure_cpu_peak(
            lambda: make_step(model, parts, schedule, optimizer, batches, device), model, optimizer
        )
        return Measured(seconds, parts_of_a_step, peak)
    process, remark = process_bytes(device)
    peak, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    launches, busy, reason = _count_launches(step, statistics.median(seconds))
    remarks = "; ".join(filter(None, (remark, reason)))
    return Measured(seconds, _time_parts(step, device), peak, reserved, process, launches, busy, remarks)


def make_step(
    model: Subject,
    parts: frozenset[str],
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    device: torch.device,
) -> Callable[[], None]:
    """Returns a function that takes the trainer's step on the next micro-batch; `model` has entered its stage."""
    world, prefetch = World(0, 1, device), Prefetcher(device)
    loss_of_batch = loss_of(model, parts, torch.bfloat16 if device.type == "cuda" else torch.float32)

    def step() -> None:
        batch = next(batches)
        train_step(
            loss_of_batch,
            optimizer,
            prefetch([batch]),
            tokens=batch.token_count,
            rate=schedule.min_lr,
            clip=schedule.clip,
            world=world,
        )

    return step


def _time_steps(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Returns the seconds of a step, averaged over `steps` in a row."""

    def several() -> None:
        for _ in range(steps):
            step()

    return clocked(several, device) / steps


def _time_parts(step: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Returns seconds by part, the median of steps in a row; the clock at every boundary is the device's.

    The host does not wait between parts or steps, so that copies and launches overlap as they do in training.
    """
    steps: list[list[tuple[str, torch.cuda.Event | float]]] = []

    def note(part: str) -> None:
        steps[-1].append((part, _now(device)))

    wait(device)
    with listening(note):
        for _ in range(1 + CLOCKED):
            steps.append([])
            note("data")
            step()
            note("end")
    wait(device)
    times: dict[str, list[float]] = {part: [0.0] * CLOCKED for part in PARTS}
    for number, marks in enumerate(steps[1:]):
        for (part, start), (_, end) in pairwise(marks):
            times[part][number] += _seconds_between(start, end)
    return {part: statistics.median(seconds) for part, seconds in times.items() if any(seconds)}


def _now(device: torch.device) -> torch.cuda.Event | float:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between(start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float)
        assert isinstance(end, float)
        return end - start
    return start.elapsed_time(end) / 1000


def _measure_cpu_peak(
    prepare: Callable[[], Callable[[], None]], model: Subject, optimizer: torch.optim.Optimizer
) -> int:
    """Returns the peak of bytes in tensors during a step; `prepare` makes the step's function."""
    with PeakBytes() as memory:
        states = [value for state in optimizer.state.values() for value in state.values()]
        for tensor in [*model.parameters(), *(value for value in states if isinstance(value, torch.Tensor))]:
            memory.add(tensor)
        prepare()()  # a frozen tower's copy counts as well
    return memory.peak


def _count_launches(step: Callable[[], None], seconds: float) -> tuple[int | None, float | None, str]:
    """Returns the kernels of a step and the share of `seconds` that they run; or None, None and the reason."""
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    kernels = [event for event in recorded.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not kernels:
        return (
            None,
            None,
            "launches: torch.profiler recorded no kernel, as where reading the GPU's counters is not permitted",
        )
    return len(kernels), sum(event.device_time for event in kernels) / 1e6 / seconds, ""
