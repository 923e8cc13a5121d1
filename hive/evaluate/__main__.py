"""python -m hive.evaluate: a vision-language model on MME, GQA, OK-VQA or ScienceQA."""

import sys

from hive.command import exit_code
from hive.evaluate.cli import parse


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 with one sentence for a user's mistake, 130 for Ctrl-C."""

    def run() -> int:
        command = parse(sys.argv[1:] if argv is None else argv)
        from hive.evaluate.run import evaluate  # torch and transformers take seconds to import

        return evaluate(command)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
