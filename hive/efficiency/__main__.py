"""python -m hive.efficiency: what HIVE costs compared with self-attention, in FLOPs, memory and time."""

import sys

from hive.command import exit_code
from hive.efficiency.options import Options
from hive.flags import read_flags


def run(arguments: list[str]) -> int:
    """Runs the comparison, prints its tables and writes its files; returns the exit code."""
    options: Options = read_flags(Options, arguments, "python -m hive.efficiency")
    from hive.efficiency.report import produce  # torch and transformers take seconds to import

    produce(options, arguments)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 with one sentence for a user's mistake, 130 for Ctrl-C."""
    return exit_code(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
