"""Tunes the tile tables with the time that is left, and tells each decision and, at each change, the new tables.

On a CPU, in a rehearsal, only what would be measured is listed.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.child import ROOT
from benchmarks.gpu.rows import run_items, seconds_left
from hive_kernels import first_use, tune

RESERVE = 10.0
"""Seconds before this process is ended, in which no candidate is begun."""


def main() -> int:
    """Tells a row for each decision; returns the exit code."""
    first_use.skip()  # the steps before have checked the kernels
    return run_items(["tables"], lambda name: rows())


def rows() -> Iterator[dict[str, Any]]:
    """A row for each decision; one that changes a table has the text of all tables."""
    if not torch.cuda.is_available():
        yield {"text": f"{len([*tune.tunable()])} operations can be tuned, on a GPU"}
        return
    device = torch.device("cuda", torch.cuda.current_device())
    count = 0
    for decision in tune.tune([*tune.tunable()], device, tune.milliseconds, seconds_left() - RESERVE, ""):
        row = {"text": tune.describe(decision), **decision._asdict()}
        count += 1
        yield row | ({"tables": tables()} if decision.after != decision.before else {})
    yield {"text": f"{count} decisions"}


def tables() -> dict[str, str]:
    """The text of every measured_tiles.py, in case only the results are kept."""
    files = sorted((ROOT / "hive_kernels").glob("*/measured_tiles.py"))
    return {f"{file.parent.name}/{file.name}": file.read_text() for file in files}


if __name__ == "__main__":
    sys.exit(main())
