"""python -m hive.efficiency: what HIVE costs beside self-attention, in FLOPs, memory and time."""

import sys

import tyro

from hive.efficiency.options import Options
from hive.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Entry point: a person's mistake is one sentence and exit code 2."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        options = tyro.cli(Options, args=arguments, prog="python -m hive.efficiency")
        from hive.efficiency.report import produce  # torch and transformers take seconds to import

        produce(options, arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
