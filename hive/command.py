"""Turns a person's mistake into one sentence on standard error and exit code 2, for every command."""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hive.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

STDOUT, STDERR = 1, 2  # the file descriptors
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
        return _explain(command, when_full, say)
    except BrokenPipeError:
        closed = _closed_outputs()
        if not closed:
            raise
        for output in closed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python writes what is left when it ends
        return 128 + signal.SIGPIPE


def _explain(command: Callable[[], int], when_full: str, say: Callable[[str], None]) -> int:
    """Runs the command; returns its exit code. Only a pipe that breaks, and a fault of ours, raise."""
    try:
        return _flushed(command)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except UserError as error:
        say(f"error: {error}")
    except OSError as error:
        place = error.filename or error
        if error.errno in NO_ROOM:
            say(f"error: The disk or its quota is full ({place}): make room, then {when_full}.")
        elif error.errno in NO_ACCESS:
            say(f"error: {place} can't be used ({error.strerror}): choose another, or change its rights.")
        else:
            raise
    return 2


def _flushed(command: Callable[[], int]) -> int:
    """Runs the command and writes out what it has printed: where Python did that at its end, it printed a traceback."""
    try:
        code = command()
    except SystemExit:  # of --help, or of a library that has said what is wrong with a flag
        print(end="", flush=True)
        raise
    print(end="", flush=True)
    return code


def _closed_outputs() -> list[int]:
    """Standard output and error where their reader has gone; another pipe, such as a worker's, may be what broke."""
    outputs = select.poll()
    for output in (STDOUT, STDERR):
        outputs.register(output, 0)  # errors alone, which poll always reports
    return [output for output, _ in outputs.poll(0)]


def open_console() -> "Console":
    """A console for progress and tables. It raises `BrokenPipeError` where nobody reads it, as `print` does."""
    from rich.console import Console  # --help does without it

    class ReadConsole(Console):
        def on_broken_pipe(self) -> None:
            raise

    return ReadConsole()


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
