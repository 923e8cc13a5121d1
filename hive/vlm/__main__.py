"""python -m hive.vlm: fine-tunes a vision-language model, or asks one."""

import sys

from hive.command import exit_code, open_console, say_once
from hive.vlm.cli import Command, parse


def run(command: Command) -> int:
    """Runs what the command line asked for; returns the exit code."""
    # torch and transformers take seconds to import, and --help and mistyped flags need neither
    if command.ask is not None and command.model is not None:
        from hive.vlm.ask import ask

        print(ask(*command.ask, command.model, command.config.device))
        return 0
    if command.dry_run:
        from hive.train.dry_run import report
        from hive.vlm.outline import outline

        print(report(outline(command.config)))
        return 0

    from hive.distributed import join_world
    from hive.train.trainer import Trainer
    from hive.vlm.fine_tuning import fine_tuning

    resume = command.resume is not None
    with join_world(command.config.device) as world:
        task = fine_tuning(command.config, resume, world)
        if command.lr_range_test is not None:
            from hive.train.lr_range import print_range_test

            print_range_test(task, command.lr_range_test, world)
            return 0
        return Trainer(task, resume, world, open_console()).run()


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return exit_code(
        lambda: run(parse(sys.argv[1:] if argv is None else argv)), when_full="continue with --resume", say=say_once
    )


if __name__ == "__main__":
    sys.exit(main())
