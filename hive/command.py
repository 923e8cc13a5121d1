"""What every command does with a person's mistake: one sentence on standard error, and exit code 2."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hive.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_ACCESS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)


def _print(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def exit_code(
    command: Callable[[], int], *, when_full: str = "run it again", say: Callable[[str], None] = _print
) -> int:
    """Runs `command`; returns its exit code, 2 after a person's mistake, 130 after Ctrl-C.

    141 where nobody reads the output any more, as behind `| head`. `when_full` is what to do once a full disk has room
    again.
    """
    try:
        return command()
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except UserError as error:
        say(f"error: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
        return 128 + signal.SIGPIPE
    except OSError as error:
        place = error.filename or error
        if error.errno in NO_ROOM:
            say(f"error: The disk or its quota is full ({place}): make room, then {when_full}.")
        elif error.errno in NO_ACCESS:
            say(f"error: {place} can't be used ({error.strerror}): choose another, or change its rights.")
        else:
            raise
    return 2


def say_once(sentence: str) -> None:
    """The same in the first process of torchrun's that has anything to say."""
    if _first_to_fail():
        _print(sentence)


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
