"""python -m hive.report RUN...: one HTML file of one run, or of several side by side."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hive.command import exit_code
from hive.errors import UserError
from hive.files import replace_text
from hive.flags import read_flags
from hive.report.page import page
from hive.report.read import read_runs


@dataclass(frozen=True)
class Command:
    """Writes one self-contained HTML file: configuration, losses, efficiency, maps and bad samples."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders; several are shown side by side."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("report.html")
    """The file to write."""


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    command: Command = read_flags(Command, argv, "python -m hive.report")
    if not command.runs:
        raise UserError("RUN is missing: give the folder of a run, or of several.")
    return command


def run(command: Command) -> int:
    """Writes the file, prints its path and size, and returns the exit code."""
    out = command.out
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give the name of a file, such as {out / 'report.html'}.")
    text = page(read_runs(command.runs))
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, text)
    print(f"report  {out}  ({len(text) / 1e6:.1f} MB)")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 with one sentence for a user's mistake, 130 for Ctrl-C."""
    return exit_code(lambda: run(parse(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
