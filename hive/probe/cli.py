"""The command line of the probe."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hive.config import CountOrZero, Rule, check_ranges
from hive.errors import UserError, choose
from hive.flags import read_flags
from hive.probe.datasets import DATASETS
from hive.probe.protocol import HeadName, Protocol


def default_cache() -> Path:
    """Returns $XDG_CACHE_HOME/hive, or ~/.cache/hive where the variable is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hive"


@dataclass(frozen=True)
class Command:
    """Trains attention-pooling and linear classifiers on a frozen tower, the whole grid of Table 4 in one pass."""

    tower: Path
    """Folder of a tower in Hugging Face form, such as the tower/ of a run, or hub name of a CLIP or SigLIP model."""
    dataset: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(DATASETS) + "}")]
    """A classification set in its official files, or folder: a folder of images for each class."""
    data_root: Path
    """Folder that the set was unpacked in."""
    protocol: Annotated[Protocol, tyro.conf.arg(name="")] = field(default_factory=Protocol)
    heads: Annotated[tuple[HeadName, ...] | None, Rule("one or more heads", lambda value: len(value) > 0)] = None
    """Kinds of heads: the authors' attention pooling; linear on the mean token; linear on the class token. None trains
    all that the tower allows."""
    layer: CountOrZero | None = None
    """Hidden state that is read, k = output of layer k; None is the deepest that was trained where HIVE exported the
    tower, and else the last but one, as in the authors' probe."""
    cache: Path | None = None
    """Folder that keeps features from run to run; None is hive in $XDG_CACHE_HOME, or ~/.cache/hive."""
    cache_tokens: bool = True
    """Keep all tokens for the attention head; otherwise the tower runs in every epoch."""
    out: Path | None = None
    """JSON file for the results."""
    device: str = "auto"
    """"auto" takes the GPU where there is one; or cpu, cuda, cuda:1, mps (Apple's, which "auto" leaves)."""
    workers: CountOrZero = 2
    """Processes that decode images; 0 decodes in the main process. Changes no result."""


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    command: Command = read_flags(Command, argv, "python -m hive.probe")
    check_ranges(command.protocol)
    check_ranges(command)
    choose("--dataset", command.dataset, DATASETS)
    if command.out is not None:
        folder = command.out.absolute().parent
        if command.out.is_dir() or not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise UserError(f"--out {command.out} can't be written: name a JSON file in a folder that can.")
    return command
