"""How the commands of this package end where nobody reads their output any more, as behind `| head`."""

import os
import select
import signal
from collections.abc import Callable

STDOUT, STDERR = 1, 2  # the file descriptors


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs `command`; returns its exit code, 0 for None, or 141 without a word after a closed pipe."""
    try:
        try:
            code = command()
        except SystemExit:  # of --help
            print(end="", flush=True)
            raise
        print(end="", flush=True)  # where Python does this at its end, it prints a traceback
        return code or 0
    except BrokenPipeError:
        outputs = select.poll()
        for output in (STDOUT, STDERR):
            outputs.register(output, 0)  # errors alone, which poll always reports
        closed = outputs.poll(0)
        if not closed:
            raise  # another pipe, such as a worker's
        for output, _ in closed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        return 128 + signal.SIGPIPE
