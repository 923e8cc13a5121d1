"""How a child of ``make gpu`` tells its parent what it has: rows, a line of JSON each, on the pipe in HIVE_ROWS.

A row is what the child wants to be kept. Some keys mean something to the parent:

- ``text``: the row in one line, for the terminal.
- ``fault``: why the row counts as a failure of its step.
- ``skipped``: why the step can't be done here.
- ``todo``: not kept; the names of all items of the step. Where one hangs or ends the process, the command is run again
  with the names of those behind it as arguments.
- ``begin``: not kept; the name of the item that begins.

Without HIVE_ROWS, where a person runs a child by hand, rows are printed. With HIVE_REHEARSAL=1 rows lose their numbers:
what a rehearsal on a CPU takes says nothing about a GPU.
"""

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.report import without_nan

STICKY = 3
"""Exit code of a child that could do no more, because an error of CUDA stays with a process."""


REHEARSAL = os.environ.get("HIVE_REHEARSAL") == "1"


def tell(row: dict[str, Any]) -> None:
    """Passes a row to the parent, at once."""
    if REHEARSAL:
        row = without_numbers(row)
    line = json.dumps(without_nan(row)) + "\n"
    pipe = os.environ.get("HIVE_ROWS")
    if pipe is None:
        print(line, end="", flush=True)
        return
    left = memoryview(line.encode())
    while left:
        left = left[os.write(int(pipe), left) :]


def without_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """The row as a rehearsal tells it: its words, and in the place of a text, which has numbers in it, that it came."""
    kept = {key: value for key, value in row.items() if isinstance(value, str) or key == "todo"}
    told = ("result",) if "result" in row else ("item", "status", "reason")
    words = " ".join(row[key] for key in told if row.get(key))
    return kept | ({"text": words or "ran"} if "text" in row else {})


def seconds_left() -> float:
    """The seconds until the parent ends this process; more than any work takes where there is no parent."""
    end = os.environ.get("HIVE_UNTIL")
    return 1e9 if end is None else float(end) - time.monotonic()


def run_items(names: Sequence[str], work: Callable[[str], Iterable[dict[str, Any]]]) -> int:
    """Tells the rows of each item, and an exception as its last one; returns the exit code.

    The process should end then: where CUDA no longer answers, no later item would tell anything true.
    """
    faulthandler.register(signal.SIGTERM, chain=True)  # prints where it hangs when the parent ends it
    tell({"todo": [*names]})
    for name in names:
        tell({"begin": name})
        try:
            for row in work(name):
                tell(row)
        except Exception as error:
            traceback.print_exc()
            tell({"item": name, "fault": describe(error)})
        if not _cuda_answers():
            print("an error of CUDA stays with this process, which ends", file=sys.stderr)
            return STICKY
    return 0


def describe(error: Exception) -> str:
    """The exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _cuda_answers() -> bool:
    import torch

    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True
