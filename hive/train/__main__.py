"""python -m hive.train: pre-trains a vision encoder through a language model, in three stages."""

import sys

from hive.command import exit_code, say_once
from hive.train.cli import Command, parse


def run(command: Command) -> int:
    """Runs what the command line asked for; returns the exit code."""
    # torch and transformers take seconds to import: --help and mistyped flags answer without them
    if command.dry_run:
        from hive.train.dry_run import report

        print(report(command.config))
        return 0
    from rich.console import Console

    from hive.distributed import join_world
    from hive.train.trainer import Trainer

    with join_world(command.config.device) as world:
        return Trainer(command.config, command.resume is not None, world, Console(), command.profile).run()


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return exit_code(
        lambda: run(parse(sys.argv[1:] if argv is None else argv)), when_full="continue with --resume", say=say_once
    )


if __name__ == "__main__":
    sys.exit(main())
