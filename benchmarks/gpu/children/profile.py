"""Profiles 20 training steps of HIVE in stage 2: ``profile.py [--without BACKEND=REASON] [ITEM...]``.

The items are the kernels' backends. A row has the launches of a step, the gaps in which the GPU has nothing to do, and
the share of the GPU's rate that the step reaches (MFU, against a large matrix product measured here).
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.children.arguments import parse
from benchmarks.gpu.rows import run_items
from hive.cost.cases import random_batch
from hive.cost.flops import step_flops
from hive.cost.methods import build, configured
from hive.efficiency.machine import matrix_rate, wait
from hive.efficiency.measure import make_step
from hive.optimizer import build_optimizer
from hive.recipes import load_recipe
from hive.stages import enter_stage, trained_parts
from hive_kernels import first_use

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = DEVICE.type == "cuda"
RECIPE, SAMPLES = ("siglip-l-384-mobilellm-350m", 16) if GPU else ("demo", 2)
STAGE, TOKENS, WARM_UP, STEPS = 2, 16, 5, 20
BACKENDS = ("triton", "torch")
LONGEST = 10
"""Gaps and kernels of which a row has the names."""


class Span(NamedTuple):
    """What the GPU did from ``start`` to ``end``, in microseconds."""

    name: str
    start: float
    end: float


def main(arguments: Sequence[str]) -> int:
    """Tells a row for each backend; returns the exit code."""
    _, without, items = parse("profile.py", [], arguments)
    first_use.skip()  # the steps before have checked the kernels
    return run_items(items or [name for name in BACKENDS if name not in without], rows)


def rows(backend: str) -> Iterator[dict[str, Any]]:
    """The seconds of 20 steps, then what the profiler saw in 20 more."""
    config = configured(load_recipe(RECIPE), "hive")
    with torch.device(DEVICE):
        model = build(config, "hive", backend)
    parts, schedule = trained_parts(config, STAGE), config.schedule(STAGE)
    optimizer = build_optimizer(enter_stage(model, parts), schedule)
    lengths = (TOKENS,) * SAMPLES
    batch = random_batch(lengths, model)
    step = make_step(model, parts, schedule, optimizer, cycle([batch.pin_memory() if GPU else batch]), DEVICE)
    for _ in range(WARM_UP):
        step()
    wait(DEVICE)
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    wait(DEVICE)
    seconds = (time.perf_counter() - start) / STEPS
    flop = sum(cost.total for cost in step_flops(model, parts, SAMPLES, lengths).values())
    rate = matrix_rate(DEVICE)
    known = {"item": f"HIVE on {backend}", "stage": STAGE, "samples": SAMPLES, "text_tokens": TOKENS, "steps": STEPS}
    timed = {"seconds": seconds, "flop": flop, "matrix_rate": rate, "mfu": flop / seconds / rate}
    yield known | timed | {"text": f"{backend}: {1000 * seconds:.1f} ms a step, MFU {100 * timed['mfu']:.0f} %"}
    if GPU:
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            for _ in range(STEPS):
                step()
            wait(DEVICE)
        cuda = torch.autograd.DeviceType.CUDA
        events = [event for event in recorded.events() if event.device_type == cuda]
        yield known | summarise([Span(e.name, e.time_range.start, e.time_range.end) for e in events], STEPS)


def summarise(spans: Sequence[Span], steps: int) -> dict[str, Any]:
    """Launches, busy time and gaps of a step, from everything that the GPU did in ``steps`` of them."""
    if not spans:
        return {"fault": "torch.profiler recorded no kernel, as where reading the GPU's counters is not permitted"}
    gaps, busy, last = [], 0.0, min(spans, key=lambda span: span.start)
    end = last.start
    for span in sorted(spans, key=lambda span: span.start):
        if span.start > end:
            gaps.append((span.start - end, f"{last.name} -> {span.name}"))
        busy += max(0.0, span.end - max(span.start, end))
        if span.end >= end:
            end, last = span.end, span
    whole = end - min(span.start for span in spans)
    by_kernel: Counter[str] = Counter()
    for span in spans:
        by_kernel[span.name] += span.end - span.start  # type: ignore[assignment]
    long = [gap for gap, _ in gaps if gap > 10]
    text = (
        f"{len(spans) / steps:.0f} launches a step, the GPU is busy for {100 * busy / whole:.0f} % of it; "
        f"{len(long) / steps:.0f} gaps above 10 us a step, {sum(long) / steps / 1000:.2f} ms in all"
    )
    return {
        "launches": len(spans) / steps,
        "busy": busy / whole,
        "gaps_above_10_us": len(long) / steps,
        "gap_ms": sum(gap for gap, _ in gaps) / steps / 1000,
        "longest_gaps_us": [{"us": gap, "between": between} for gap, between in sorted(gaps, reverse=True)[:LONGEST]],
        "kernels_ms": {name: us / steps / 1000 for name, us in by_kernel.most_common(LONGEST)},
        "text": text,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
