"""python -m hive.vlm: fine-tunes a vision-language model, or asks one."""

import sys

from hive.command import exit_code, say_once
from hive.vlm.cli import Command, parse


def run(command: Command) -> int:
    """Runs what the command line asked for; returns the exit code."""
    if command.ask is not None and command.model is not None:
        from hive.vlm.ask import ask

        print(ask(*command.ask, command.model, command.config.device))
        return 0
    # torch and transformers take seconds to import: --help and mistyped flags answer without them
    from rich.console import Console

    from hive.distributed import join_world
    from hive.vlm.trainer import VLMTrainer

    with join_world(command.config.device) as world:
        return VLMTrainer(command.config, command.resume is not None, world, Console()).run()


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return exit_code(
        lambda: run(parse(sys.argv[1:] if argv is None else argv)), when_full="continue with --resume", say=say_once
    )


if __name__ == "__main__":
    sys.exit(main())
