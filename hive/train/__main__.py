"""python -m hive.train: pre-trains a vision encoder through a language model, in three stages."""

import errno
import os
import sys
from pathlib import Path

from hive.errors import UserError
from hive.train.cli import Command, parse

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


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
    try:
        return run(parse(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except UserError as error:
        return _say(f"error: {error}", 2)
    except OSError as error:
        place = error.filename or error
        if error.errno in NO_ROOM:
            return _say(f"error: The disk or its quota is full ({place}): make room, then continue with --resume.", 2)
        if error.errno in NO_ACCESS:
            return _say(f"error: {place} can't be used ({error.strerror}): choose another, or change its rights.", 2)
        raise


def _say(sentence: str, code: int) -> int:
    if _first_to_fail():
        print(sentence, file=sys.stderr)
    return code


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
