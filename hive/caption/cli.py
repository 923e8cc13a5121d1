"""The command line of the captions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hive.config import Count, Kernel, Positive, Seed, check_ranges
from hive.errors import UserError
from hive.flags import read_flags


@dataclass(frozen=True)
class Command:
    """Captions images with the model that python -m hive.train has trained."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run's folder, or its model/ alone."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """Files of the formats that training reads, folders of them with all folders inside, or globs in quotes."""
    json: bool = False
    """Print a line of JSON for each caption instead of a table."""
    samples: Count | None = None
    """Draw so many captions of each image at random; None takes the likeliest token each time."""
    temperature: Positive | None = None
    """With --samples: what logits are divided by, 1 by default; lower ones draw likelier tokens."""
    seed: Seed = 0
    """With --samples: the same seed, image and model draw the same captions."""
    max_tokens: Count | None = None
    """Longest caption; None is the length to which the run cut its captions."""
    batch_size: Count = 16
    """Images captioned at once; changes speed and memory, and captions at most by rounding."""
    device: str = "auto"
    """"auto" takes the GPU where there is one; or cpu, cuda, cuda:1."""
    kernel: Kernel | None = None
    """Backend of the fused operations; None is the run's."""


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    command: Command = read_flags(Command, argv, "python -m hive.caption")
    check_ranges(command)
    if not command.images:
        raise UserError("No image is given: python -m hive.caption RUN IMAGE [IMAGE ...].")
    if command.temperature is not None and command.samples is None:
        raise UserError("--temperature goes with --samples, which is not given: add it, or leave --temperature out.")
    return command
