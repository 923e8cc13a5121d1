"""The command line of the maps."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import UseAppendAction
from tyro.constructors import PrimitiveConstructorSpec

from hive.config import Kernel, check_ranges
from hive.errors import UserError
from hive.files import has_surrogate
from hive.flags import read_flags

Head = Annotated[
    int | str,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="mean|N",
        instance_from_str=lambda words: int(words[0]) if words[0].isdecimal() else words[0],  # `parse` refuses the rest
        is_instance=lambda value: isinstance(value, int | str),
        str_from_instance=lambda value: [str(value)],
    ),
]


@dataclass(frozen=True)
class Gradients:
    """Draws the gradient of the caption loss at every encoder layer."""

    image: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """An image file."""
    caption: Annotated[str, tyro.conf.arg(metavar="TEXT")]
    """The image's text."""
    run: Annotated[UseAppendAction[tuple[tuple[Path, ...], ...]], tyro.conf.arg(metavar="DIR [DIR ...]")] = ()
    """Run folder; two are drawn beside each other. (required)"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where to write; None is maps/ in the first run."""
    device: str = "auto"
    """"auto" takes the GPU where there is one; or cpu, cuda, cuda:1, mps (Apple's, which "auto" leaves)."""
    kernel: Kernel | None = None
    """Backend of the fused operations; None is the run's."""

    @property
    def runs(self) -> list[Path]:
        """All folders that --run names, in order."""
        return list(chain(*self.run))


@dataclass(frozen=True)
class Attention(Gradients):
    """Draws the attention of the caption's words to the image, at every depth that reads the image."""

    words: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], tyro.conf.arg(metavar="WORD [WORD ...]")] = ()
    """Words of the caption; the six longest where none is given."""
    head: Head = "mean"
    """A query head, counted from 0, or the mean over all query heads."""


def parse(argv: list[str]) -> Gradients | Attention:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    command: Gradients | Attention = read_flags(Gradients | Attention, argv, "python -m hive.maps")
    check_ranges(command)
    if not command.runs:
        raise UserError("--run is missing: give a run folder, or two that are drawn beside each other.")
    if not command.caption.split() or has_surrogate(command.caption):
        raise UserError("--caption is empty or no UTF-8 text: give the text that goes with the image.")
    if isinstance(command, Attention) and isinstance(command.head, str) and command.head != "mean":
        raise UserError(f'--head: "{command.head}" is neither mean nor a number from 0.')
    return command
