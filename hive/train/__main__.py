"""python -m hive.train: pre-trains a vision encoder through a language model, in three stages."""

import errno
import sys

from rich.console import Console

from hive.distributed import join_world
from hive.errors import UserError
from hive.train.cli import Command, parse
from hive.train.dry_run import report
from hive.train.trainer import Trainer


def run(command: Command) -> int:
    """Runs what the command line asked for; returns the exit code."""
    if command.dry_run:
        print(report(command.config))
        return 0
    world = join_world(command.config.device)
    return Trainer(command.config, command.resume is not None, world, Console()).run()


def main(argv: list[str] | None = None) -> int:
    """Entry point: a person's mistake is one sentence and exit code 2."""
    try:
        return run(parse(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"error: The disk is full ({error.filename or error}): make room, then continue with --resume.",
            file=sys.stderr,
        )
    return 2


if __name__ == "__main__":
    sys.exit(main())
