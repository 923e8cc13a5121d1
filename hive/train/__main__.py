"""python -m hive.train: pre-trains a vision encoder through a language model, in three stages."""

import os
import sys
from pathlib import Path

from hive.command import exit_code
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
    """Entry point: a person's mistake is one sentence and exit code 2, Ctrl-C before training starts 130."""
    return exit_code(
        lambda: run(parse(sys.argv[1:] if argv is None else argv)), when_full="continue with --resume", say=_say
    )


def _say(sentence: str) -> None:
    if _first_to_fail():
        print(sentence, file=sys.stderr)


def _first_to_fail() -> bool:
    """Whether no other process of this machine's torchrun has spoken: they all meet the same mistake, and whoever meets
    it first may be the last that torchrun lets live."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # .../attempt_0/RANK/error.json, set by torchrun
    if error_file is None:
        return True
    try:
        (Path(error_file).parents[1] / "hive-has-spoken").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(main())
