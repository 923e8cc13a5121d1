"""Measures a training step of one stage: ``efficiency.py STAGE [--without BACKEND=REASON] [ITEM...]``.

The items are HIVE on Triton's kernels, self-attention, and HIVE on torch's kernels, all on as many samples as a step of
self-attention has room for, at most 32.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch

from benchmarks.gpu.children.arguments import parse
from benchmarks.gpu.rows import run_items
from hive.cost.cases import Texts
from hive.cost.methods import METHODS, Method
from hive.efficiency.compare import Row, count, fitting, measure_rows
from hive.efficiency.machine import matrix_rate
from hive.recipes import load_recipe
from hive_kernels import first_use

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = DEVICE.type == "cuda"
RECIPE = "siglip-l-384-mobilellm-350m" if GPU else "demo"
PRECISION = torch.bfloat16 if GPU else torch.float32
TOKENS, RUNS, MOST = 16, 3, 32
ITEMS: dict[str, tuple[Method, str]] = {
    "HIVE, triton": ("hive", "triton"),
    "self-attention": ("self-attention", "torch"),
    "HIVE, torch": ("hive", "torch"),
}


def main(arguments: Sequence[str]) -> int:
    """Tells a row for each item; returns the exit code."""
    (stage,), without, items = parse("efficiency.py", ["stage"], arguments)
    first_use.skip()  # the steps before have checked the kernels
    usable = [name for name, (_, backend) in ITEMS.items() if backend not in without]
    return run_items(items or usable, lambda name: rows(name, int(stage)))


def rows(name: str, stage: int) -> Iterator[dict[str, Any]]:
    """The measured step; where it does not fit, also one of half as many samples, and so on."""
    config, (method, backend) = load_recipe(RECIPE), ITEMS[name]
    samples = samples_for(stage)
    while samples:
        texts = Texts(str(TOKENS), (TOKENS,) * samples)
        (row,) = count(config, method, (stage,), texts, PRECISION)
        (row,) = measure_rows(config, [row], texts, DEVICE, backend, RUNS)
        yield {"item": name} | describe(row, backend)
        samples = 0 if row.measured else samples // 2


@cache
def samples_for(stage: int) -> int:
    """The largest power of two, at most 32, of samples with which a step of self-attention fits, by simulation."""
    if not GPU:
        return 2
    room = torch.cuda.get_device_properties(DEVICE).total_memory // 2**30
    (fits,) = fitting(load_recipe(RECIPE), "self-attention", stage, TOKENS, (room,))
    return min(MOST, 1 << (max(1, fits).bit_length() - 1))


@cache
def rate() -> float:
    """FLOP/s of a large product of matrices."""
    return matrix_rate(DEVICE)


def describe(row: Row, backend: str) -> dict[str, Any]:
    """The row as the parent keeps it."""
    name = f"{METHODS[row.method]} on {backend}, stage {row.stage}, {row.samples} samples of {row.text} text tokens"
    known: dict[str, Any] = {
        "method": row.method,
        "backend": backend,
        "stage": row.stage,
        "samples": row.samples,
        "text_tokens": row.text_tokens,
        "flop_a_sample": row.everything,
        "simulated_peak_bytes": row.step.peak,
    }
    if row.measured is None:
        return known | {"text": f"{name}: {row.remark}"}
    seconds = row.measured.median
    share = row.everything * row.samples / seconds / rate()
    text = f"{name}: {1000 * seconds:.1f} ms a step, {100 * share:.0f} % of the rate of a large matrix product"
    return known | {
        "seconds": row.measured.seconds,
        "parts": row.measured.parts,
        "peak_bytes": row.measured.peak,
        "reserved_bytes": row.measured.reserved,
        "launches": row.measured.launches,
        "busy": row.measured.busy,
        "matrix_rate": rate(),
        "share_of_matrix_rate": share,
        "remark": row.measured.remark,
        "text": text,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
