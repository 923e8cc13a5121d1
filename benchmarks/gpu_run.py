"""``python -m benchmarks.gpu_run``, which ``make gpu`` runs: all checks and measurements on a GPU, within 8 minutes.

This process starts children and keeps what they tell (benchmarks/gpu/run.py); it imports no torch and makes no CUDA
context. One JSON and one text are in benchmarks/results/, or the folder in HIVE_RESULTS, from the first row on. With
``--rehearse`` the same plan runs on a CPU, on small shapes, to see that everything works. docs/gpu.md has the rest.
"""

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from benchmarks import report
from benchmarks.gpu.record import Record
from benchmarks.gpu.run import Limits, Stop, run
from benchmarks.gpu.steps import SLOWER, machine, missing, missing_options, plan
from hive.command import exit_code
from hive.errors import UserError

SECONDS = 480.0
"""For all steps together."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all steps; returns 0 when all passed, 1 when one did not or was left out, 2 without what they need."""
    return exit_code(lambda: _main(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=_seconds, default=SECONDS, help="until all must be over; 480 by default")
    parser.add_argument("--fp32", action="store_true", help="also check Triton's kernels in fp32")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with small shapes; measures nothing")
    options = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks.gpu_run", *arguments])
    return _run(command, options.seconds, options.fp32, options.rehearse)


def _seconds(text: str) -> float:
    """A number of seconds that a run can take."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"is {text}; allowed: a number above 0")
    return seconds


def _run(command: str, seconds: float, fp32: bool, rehearsal: bool) -> int:
    lacking = missing()
    if lacking:
        raise UserError(
            f"Python {platform.python_version()} at {sys.executable} lacks {', '.join(lacking)}: docs/gpu.md says how "
            "to bring them to a machine without pip."
        )
    if rehearsal and seconds == SECONDS:
        seconds *= SLOWER  # a CPU is slow, and nothing is measured
    limits = Limits(time.monotonic() + seconds)
    folder = report.results_folder()
    stem = "rehearsal-cpu" if rehearsal else "gpu-unknown"
    facts = {"command": command, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    facts["missing"] = ", ".join(missing_options()) or "nothing"
    _print(f"missing: {facts['missing']}")
    record = Record(folder, stem, facts, rehearsal=rehearsal, writes=False)
    cores = os.cpu_count() or 1
    with Stop() as stop:
        start = partial(run, record=record, limits=limits, stop=stop, parallel=min(8, max(2, cores // 2)), tell=_print)
        start([machine(rehearsal)])
        if any("skipped" in row for row in record.rows):
            raise UserError("No GPU can be used here: --rehearse runs everything on a CPU, without a measurement.")
        record.writes = True
        told = next((row for row in record.rows if "machine" in row), None)
        if told is not None:
            record.facts["machine"] = told["machine"]
            record.stem = stem if rehearsal else f"gpu-{told['name']}"
            start(plan(told, folder / record.stem, fp32, rehearsal))
    record.finished = True
    record.save()
    _print(f"\n{record.summary()}")
    files = f"{folder / record.stem}.json and .txt"
    _print(f"NOT written to {files}: {record.unwritten}" if record.unwritten else f"written to {files}")
    return record.exit_code()


def _print(line: str) -> None:
    """Prints a line, as long as somebody reads: the files have everything, also where a pipe or terminal is closed."""
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(main())
