"""``python -m hive_kernels.tune [--seconds N] [--only TEXT]``: measures tile configurations on this machine's GPU.

For each entry of the operations' tile tables it times the candidates, keeps the fastest whose results agree with the
present one's, and rewrites each operation's measured_tiles.py after each change. It prints what changed. When its
seconds are over it stops early and keeps what it has decided so far. The first launch of each candidate compiles it,
which is most of the time.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

import hive_kernels
from hive_kernels.choice import Choice
from hive_kernels.command import exit_code

WORTH = 0.97  # of the present time: a candidate that isn't below it changes nothing
AGREEMENT = 0.02  # of the largest value: several roundings of bf16

Timer = Callable[[Callable[[], object]], float]
"""Seconds or any other unit that a call takes."""


class Decision(NamedTuple):
    """A table's entry before and after tuning, and the time of each."""

    name: str
    key: Any
    before: Any
    after: Any
    time_before: float
    time_after: float
    wrong: tuple[Any, ...]
    """Candidates whose results differ from the present ones'."""
    untried: int = 0
    """Candidates for which no time was left."""


def settle(choice: Choice, timer: Timer, until: float = float("inf")) -> Decision:
    """Times the candidates and puts the fastest into the table; one that is too large for the GPU is skipped.

    No candidate is begun after ``until``, by time.monotonic().
    """
    before = choice.table.get(choice.key)
    expected = [x.clone() for x in choice.call()]
    present = best_time = timer(choice.call)
    best, wrong, untried = before, [], 0
    try:
        for candidate in choice.candidates:
            if candidate == before:
                continue
            if time.monotonic() > until:
                untried += 1
                continue
            choice.put(candidate)
            try:
                if not _agree(choice.call(), expected):
                    wrong.append(candidate)
                    continue
                elapsed = timer(choice.call)
            except Exception as error:
                if not _too_large(error):
                    raise
                continue
            if elapsed < min(best_time, WORTH * present):
                best, best_time = candidate, elapsed
    finally:
        choice.put(best)
    return Decision(choice.name, choice.key, before, best, present, best_time, tuple(wrong), untried)


def _agree(results: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(
        bool((a.float() - b.float()).abs().max() <= AGREEMENT * b.float().abs().max())
        for a, b in zip(results, expected, strict=True)
    )


def _too_large(error: Exception) -> bool:
    """Whether Triton refused a tile for lack of shared memory, registers or threads."""
    return type(error).__name__ in ("OutOfResources", "PTXASError")


def tunable() -> Iterator[ModuleType]:
    """The ``tuning`` module of every operation that has one."""
    for operation in iter_modules(hive_kernels.__path__, "hive_kernels."):
        if operation.ispkg and find_spec(f"{operation.name}.tuning"):
            yield import_module(f"{operation.name}.tuning")


def tune(
    modules: Sequence[ModuleType], device: torch.device, timer: Timer, seconds: float, only: str
) -> Iterator[Decision]:
    """Yields decisions for at most ``seconds``, divided among the operations.

    Each operation's file has its decision by then, so that whoever is stopped keeps what was measured.
    """
    end = time.monotonic() + seconds
    for place, module in enumerate(modules):
        until = time.monotonic() + (end - time.monotonic()) / (len(modules) - place)
        for choice in module.choices(device):
            if time.monotonic() > until:
                break
            if only in choice.name:
                decision = settle(choice, timer, until)
                _rewrite(module.TABLE_FILE, module.render())
                yield decision


def _rewrite(file: Path, text: str) -> None:
    """Replaces a module's text, whole or not at all."""
    if text != file.read_text():
        new = file.with_name(f".{file.name}.new")
        new.write_text(text)
        os.replace(new, file)


def describe(decision: Decision) -> str:
    """What was decided, in words; times in ms."""
    d = decision
    change = f"{d.before} -> {d.after}, {d.time_before:.3g} -> {d.time_after:.3g} ms"
    parts = [change if d.after != d.before else f"{d.before} stays, {d.time_before:.3g} ms"]
    parts += [f"{candidate} gives other results and is left out" for candidate in d.wrong]
    return f"{d.name}: " + "; ".join([*parts, *([f"{d.untried} candidates not tried"] if d.untried else [])])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hive_kernels.tune", description="Measures and rewrites tile tables."
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop deciding after this time")
    parser.add_argument("--only", default="", help="only entries whose name contains this")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("tuning measures on a GPU, and torch sees none here", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    measured = changed = 0
    for decision in tune([*tunable()], device, milliseconds, options.seconds, options.only):
        print(describe(decision), flush=True)
        measured, changed = measured + 1, changed + (decision.after != decision.before)
    print(f"{measured} measured, {changed} changed")
    return 0


def milliseconds(call: Callable[[], object]) -> float:
    """The median time of a call on the GPU."""
    from triton.testing import do_bench

    return do_bench(call, warmup=10, rep=50, return_mode="median")


if __name__ == "__main__":
    sys.exit(exit_code(main))
