"""Turns a person's mistake into one sentence on standard error and exit code 2, for every command."""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hive.errors import UserError

STDOUT = 1  # the file descriptor
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_ACCESS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)


def _print(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def exit_code(
    command: Callable[[], int], *, when_full: str = "run it again", say: Callable[[str], None] = _print
) -> int:
    """Runs `command`; returns its exit code, 2 after a person's mistake, 130 after Ctrl-C, 141 after a closed pipe.

    A pipe is closed where nobody reads the output any more, as with `| head`. `when_full` says what to do once a full
    disk has room again. `say` prints a sentence.
    """
    try:
        return command()
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except UserError as error:
        say(f"error: {error}")
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # Python writes what is left when it ends
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


def _stdout_is_closed() -> bool:
    """Whether the reader of standard output has gone; another pipe, such as a worker's, may be what broke."""
    stdout = select.poll()
    stdout.register(STDOUT, 0)  # errors alone, which poll always reports
    return bool(stdout.poll(0))


def say_once(sentence: str) -> None:
    """Prints the sentence, unless another process of this machine's torchrun has already reported an error."""
    if _is_first_to_report():
        _print(sentence)


def _is_first_to_report() -> bool:
    """Whether no other process of this machine's torchrun has reported an error.

    All processes meet the same mistake, and torchrun ends the others when the first one fails, so that no fixed rank
    can be the one that reports it.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # .../attempt_0/RANK/error.json, set by torchrun
    if error_file is None:
        return True
    try:
        (Path(error_file).parents[1] / "hive-error-reported").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
