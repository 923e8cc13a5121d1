"""python -m hive.caption RUN IMAGE [IMAGE ...]: what a trained model says of images."""

import sys

from hive.caption.cli import parse
from hive.command import exit_code


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 where images can't be read, 2 for a user's mistake."""

    def run() -> int:
        command = parse(sys.argv[1:] if argv is None else argv)
        from hive.caption.captions import run  # torch and transformers take seconds to import

        return run(command)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
