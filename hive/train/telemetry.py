"""Progress of a run on the console, and its metrics to metrics.jsonl and the trackers."""

import dataclasses
import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from hive.errors import first_line
from hive.files import METRICS, read_records
from hive.train.held_out import HeldOut
from hive.train.trackers import JsonLines, Tracker


def peak_memory_gb(device: torch.device) -> float:
    """Most memory in use so far, GB: allocated by torch on a GPU, resident in the process on a CPU.

    Of Apple's GPUs, whose driver keeps no maximum, it is what is allocated now.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 1e9
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def duration(seconds: float) -> str:
    """Seconds in words: 94,205 are "1 d 02:10:05"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hour:02}:{minute:02}:{second:02}"


class _Progress(Progress):
    """Two lines: stage, bar, steps and time left; below them as many of the numbers as fit in the terminal's width."""

    numbers: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        line = ""
        for number in self.numbers:
            longer = f"{line}  {number}" if line else number
            if len(longer) > self.console.width:
                break
            line = longer
        yield Text(line, no_wrap=True)


class _Bar:
    """The live progress bar of one stage, shown until `stop`."""

    def __init__(self, console: Console, stage: int, first_step: int, steps: int) -> None:
        self._progress = _Progress(
            TextColumn(f"stage {stage}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=steps, completed=first_step, left="")
        self._progress.start()

    def show(self, numbers: tuple[str, ...], step: int, left: str) -> None:
        """Shows `numbers`, the position at `step`, and the time `left`."""
        self._progress.numbers = numbers
        self._progress.update(self._task, completed=step, left=left)

    def stop(self) -> None:
        """Ends the live display; the bar stays on the screen as it is."""
        self._progress.stop()


class Telemetry:
    """Shows a run's metrics on the console and passes them on; does nothing on processes but the first."""

    def __init__(
        self,
        folder: Path,
        console: Console,
        *,
        last_step: int,
        is_main: bool = True,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        """Opens metrics.jsonl without the records after global step `last_step`: that part will be repeated."""
        self.console = console
        self.is_main = is_main
        self.folder = folder
        self._bar: _Bar | None = None
        self._trackers = list(trackers)
        self._jsonl = JsonLines(folder, last_step) if is_main else None

    def say(self, text: str) -> None:
        """Prints a text on the console."""
        if self.is_main:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start_stage(self, stage: int, first_step: int, steps: int) -> None:
        """Opens the live progress bar, where there is a terminal."""
        if self.is_main and self.console.is_terminal:
            self._bar = _Bar(self.console, stage, first_step, steps)

    def end_stage(self) -> None:
        """Closes the progress bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def record_steps(self, records: list[dict[str, Any]], stage_step: int, steps: int, seconds_left: float) -> None:
        """Writes one record a step and shows the last; `stage_step` steps of the stage's `steps` are done."""
        if not self.is_main:
            return
        for record in records:
            self.record(record, "train")
        last = records[-1]
        left = f"{duration(seconds_left)} left"
        shown = (
            f"loss {last['loss']:.3f}",
            f"lr {last['lr']:.1e}",
            f"{last['images_per_second']:,.0f} images/s",
            f"{last['tokens_per_second']:,.0f} tokens/s",
            f"{last['tflops']:.3g} TFLOP/s",
            f"{last['peak_memory_gb']:.2f} GB",
            f"gradient norm {last['gradient_norm']:.3g}",
            f"{100 * last['data_wait']:.0f} % waiting for data",
        )
        plain_every = max(1, steps // 20)
        if self._bar is not None:
            self._bar.show(shown, stage_step, left)
        elif stage_step == steps or stage_step // plain_every > (stage_step - len(records)) // plain_every:
            self.say(f"stage {last['stage']}  step {stage_step:>6}/{steps}  {'  '.join(shown[:6])}  {left}")

    def record(self, record: Mapping[str, Any], group: str) -> None:
        """Writes a record to metrics.jsonl, and passes it to the trackers."""
        if self._jsonl is not None:
            self._jsonl.record(group, record)  # raises: without it the run can't be resumed
            self._track(lambda tracker: tracker.record(group, record))

    def show_picture(self, title: str, file: Path, step: int) -> None:
        """Passes a PNG file to the trackers."""
        self._track(lambda tracker: tracker.picture(title, file, step))

    def _track(self, act: Callable[[Tracker], None]) -> None:
        """Does something with each tracker; one that fails is left out from then on, with a warning."""
        for tracker in tuple(self._trackers):
            try:
                act(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                self.say(
                    f"warning: {tracker.name} failed ({first_line(error)}) and gets no more of this run; {METRICS} has "
                    "everything."
                )

    def record_held_out(self, split: str, result: HeldOut, *, step: int, stage: int) -> None:
        """Writes the losses on a held-out split as one record."""
        self.record({"step": step, "stage": stage, **dataclasses.asdict(result)}, f"heldout/{split}")

    def held_out_at(self, step: int) -> dict[str, HeldOut]:
        """The losses that were recorded at this step, by the name of their held-out split."""
        fields = [field.name for field in dataclasses.fields(HeldOut)]
        return {
            record["kind"].removeprefix("heldout/"): HeldOut(**{name: record[name] for name in fields})
            for record in read_records(self.folder / METRICS)
            if record["kind"].startswith("heldout/") and record["step"] == step
        }

    def close(self) -> None:
        """Ends the progress bar and closes metrics.jsonl and the trackers."""
        self.end_stage()
        if self._jsonl is not None:
            self._jsonl.close()
        self._track(lambda tracker: tracker.close())
