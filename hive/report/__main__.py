"""python -m hive.report RUN...: one HTML file of one run, or of several side by side."""

import argparse
import sys
from pathlib import Path

from hive.command import Parser, exit_code
from hive.errors import UserError
from hive.files import replace_text
from hive.report.page import page
from hive.report.read import read_runs


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line; `UserError` for what can't be."""
    parser = Parser(
        prog="python -m hive.report",
        description="Writes one self-contained HTML file: configuration, losses, efficiency, maps and bad samples.",
    )
    parser.add_argument("run", type=Path, nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> int:
    """Writes the file and says where it is."""
    out: Path = arguments.out
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give the name of a file, such as {out / 'report.html'}.")
    text = page(read_runs(arguments.run))
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, text)
    print(f"report  {out}  ({len(text) / 1e6:.1f} MB)")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point: a person's mistake is one sentence and exit code 2."""
    return exit_code(lambda: run(parse(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
