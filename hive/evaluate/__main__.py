"""python -m hive.evaluate: a vision-language model on MME, GQA, OK-VQA or ScienceQA."""

import sys

from hive.command import exit_code
from hive.evaluate.cli import parse


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""

    def run() -> int:
        command = parse(sys.argv[1:] if argv is None else argv)
        from hive.evaluate.run import evaluate  # torch and transformers take seconds to import

        return evaluate(command)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
