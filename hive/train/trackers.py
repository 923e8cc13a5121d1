"""Where the metrics of a run go: metrics.jsonl, which resuming reads, and the trackers that --trackers names."""

import contextlib
import errno
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hive.config import RunConfig
from hive.config_json import flatten
from hive.errors import UserError, first_line
from hive.files import METRICS, keep_records, replace_text


class Tracker(Protocol):
    """Keeps or shows a run's numbers. Whatever it raises ends the tracking and not the run."""

    @property
    def name(self) -> str:
        """The name in --trackers."""

    def record(self, group: str, record: Mapping[str, Any]) -> None:
        """Keeps the numbers of a record of its `step` under `group`, such as "train" or "heldout/unseen_style"."""

    def picture(self, title: str, file: Path, step: int) -> None:
        """Keeps a PNG file."""

    def close(self) -> None:
        """Writes what is left."""


def check_trackers(names: Sequence[str]) -> None:
    """Raises `UserError` for a tracker whose package is not installed."""
    for sentence in absent_trackers(names):
        raise UserError(sentence)


def absent_trackers(names: Sequence[str]) -> list[str]:
    """A sentence for each tracker whose package is not installed."""
    if "wandb" not in names:
        return []
    try:
        from wandb import init  # noqa: F401 - a folder wandb/ in the current one is a package too, of nothing
    except ImportError:
        return ["--trackers names wandb, which is not installed: pip install 'wandb>=0.20', or leave it out."]
    return []


def open_trackers(config: RunConfig, folder: Path, last_step: int) -> list[Tracker]:
    """The trackers that the configuration names, besides metrics.jsonl, for a run that has `last_step` steps already.

    Raises `UserError` where one can't start.
    """
    trackers: list[Tracker] = []
    if "tensorboard" in config.trackers:
        trackers.append(TensorBoard(config, folder, last_step))
    if "wandb" in config.trackers:
        trackers.append(WeightsAndBiases(config, folder))
    return trackers


class JsonLines:
    """metrics.jsonl in the run folder: a line for each record."""

    name = "jsonl"

    def __init__(self, folder: Path, last_step: int) -> None:
        """Records after `last_step` are dropped: those steps will be repeated."""
        keep_records(folder / METRICS, lambda record: record["step"] <= last_step)
        self._file = (folder / METRICS).open("a")

    def record(self, group: str, record: Mapping[str, Any]) -> None:
        """Writes the whole record."""
        self._file.write(json.dumps({"kind": group, **record}) + "\n")
        self._file.flush()

    def picture(self, title: str, file: Path, step: int) -> None:
        """Does nothing: the file is in the run folder."""

    def close(self) -> None:
        """Closes the file. A full disk raises no error here: the write before it did."""
        with contextlib.suppress(OSError):
            self._file.close()


class TensorBoard:
    """tensorboard/ in the run folder."""

    name = "tensorboard"

    def __init__(self, config: RunConfig, folder: Path, last_step: int) -> None:
        """Steps after `last_step`, which will be repeated, are not shown."""
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _print_thread_error
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)
        rows = "\n".join(f"| {name} | {value} |" for name, value in flatten(config).items())
        self._writer.add_text("config", f"| field | value |\n|---|---|\n{rows}", last_step)

    def record(self, group: str, record: Mapping[str, Any]) -> None:
        """Adds the numbers as scalars."""
        for name, value in numbers(group, record).items():
            self._writer.add_scalar(name, value, record["step"])

    def picture(self, title: str, file: Path, step: int) -> None:
        """Adds the picture as an image."""
        import numpy as np
        from PIL import Image

        with Image.open(file) as image:
            self._writer.add_image(title, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Closes the files. A full disk raises no error here: the write before it did."""
        with contextlib.suppress(OSError):
            self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, whose files are in wandb/ of the run folder; WANDB_MODE=offline needs no network."""

    name = "wandb"

    def __init__(self, config: RunConfig, folder: Path) -> None:
        """A resumed run continues the W&B run whose id is in the run folder. Raises `UserError` where W&B can't start.

        W&B keeps the first value of a step that is repeated after a resume.
        """
        import wandb

        file = folder / "wandb" / "run-id"
        try:
            self._run = wandb.init(
                project="hive",
                name=folder.name,
                id=file.read_text().strip() if file.exists() else None,
                resume="allow",
                dir=folder,
                settings=wandb.Settings(console="off"),  # else it takes the terminal from the progress bar
            )
            self._run.config.update(json.loads(json.dumps(flatten(config), default=str)), allow_val_change=True)
        except Exception as error:  # such as its UsageError, where nobody has logged in
            raise UserError(
                f"--trackers names wandb, which can't start ({first_line(error).rstrip('.')}): run `wandb login`, set "
                "WANDB_MODE=offline, or leave it out."
            ) from error
        self._picture = wandb.Image
        file.parent.mkdir(exist_ok=True)
        replace_text(file, f"{self._run.id}\n")

    def record(self, group: str, record: Mapping[str, Any]) -> None:
        """Logs the numbers."""
        self._run.log(numbers(group, record), step=record["step"])

    def picture(self, title: str, file: Path, step: int) -> None:
        """Logs the picture."""
        self._run.log({title: self._picture(str(file))}, step=step)

    def close(self) -> None:
        """Sends or writes what is left."""
        self._run.finish()


def numbers(group: str, record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by name, with the group's name in front."""
    values = {name: value for name, value in record.items() if name not in ("step", "stage")}
    return {f"{group}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}


def _print_thread_error(arguments: threading.ExceptHookArgs) -> None:
    """Prints a thread's traceback, except for a full disk: TensorBoard raises that error again at the next write."""
    if not (isinstance(arguments.exc_value, OSError) and arguments.exc_value.errno in (errno.ENOSPC, errno.EDQUOT)):
        threading.__excepthook__(arguments)
