"""The command line of `python -m hive.export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hive.flags import read_flags

Target = Literal["hub", "timm", "open_clip", "llava"]


@dataclass(frozen=True)
class Command:
    """Writes the tower of a run in the form that another program reads, and checks it with that program."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run of python -m hive.train, of which the newest checkpoint is read, or its tower/."""
    to: Target
    """hub: for transformers, as tower/ is; timm, open_clip: for these libraries; llava: for the code of LLaVA and
    LLaVA-NeXT."""
    out: Path | None = None
    """Folder to write; None is tower-TARGET beside tower/."""
    push: str | None = None
    """Name on the Hugging Face hub, ORG/NAME, that the folder is uploaded to; needs a token."""
    device: str = "auto"
    """"auto" takes the GPU where there is one; or cpu, cuda, cuda:1."""


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` exits, and a mistyped flag raises `UserError`."""
    return read_flags(Command, argv, "python -m hive.export")
