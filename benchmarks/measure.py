"""Checks a peer against the fp64 reference, then measures it: time and memory, forward and backward.

Times on a GPU are CUDA events around one forward and backward pass. Inputs rotate through copies that together exceed
the L2 cache twice. Before each pass the GPU is kept busy for a moment, so that launches queue up as they do in training
and the events see the GPU's time, not Python's.
"""

import math
import statistics
import time
from collections.abc import Sequence
from itertools import cycle, islice

import torch
from torch import Tensor

import hive_kernels
from benchmarks.cases import Case
from benchmarks.peers import ATTENTION, Peer, Run
from benchmarks.report import Row
from hive.errors import first_line
from hive_kernels.testing import saved_bytes

WARMUP, PASSES = 5, 40
HEAD_START = 2_000_000  # GPU cycles, about a millisecond


class Truth:
    """The fp64 reference of a case and, for the tolerance, the reference in the measured dtype."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype) -> None:
        self.inputs = case.inputs(device, dtype, seed=0)
        generator = torch.Generator(device).manual_seed(1)
        self.cotangent = torch.randn(case.output_shape(), generator=generator, device=device).to(dtype)
        self.exact = self._results(case, torch.float64)
        same = self._results(case, dtype)
        largest = max(x.abs().max().item() for x in self.exact)
        rounding = torch.finfo(dtype).eps * largest
        self.allowed = [2 * (_distance(a, b) + rounding) for a, b in zip(same, self.exact, strict=True)]

    def _results(self, case: Case, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in self.inputs]
        offsets = [case.offsets(leaves[0].device)] if case.operation in ATTENTION else []
        out = getattr(hive_kernels, case.operation)(*leaves, *offsets, backend="reference")
        return [out.detach(), *torch.autograd.grad(out, leaves, self.cotangent.to(dtype))]

    def error(self, results: Sequence[Tensor]) -> float:
        """The largest error of the results, each in units of its allowed error. NaN stays NaN."""
        errors = [_distance(a, b) / limit for a, b, limit in zip(results, self.exact, self.allowed, strict=True)]
        return math.nan if any(map(math.isnan, errors)) else max(errors)


def _distance(a: Tensor, b: Tensor) -> float:
    return (a.double() - b).abs().max().item()


def backward(run: Run, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of the run's leaves."""
    return torch.autograd.grad(outputs, run.leaves, run.cotangents)


def absent(case: Case, peer: Peer) -> Row:
    """The row of a peer that can't run here."""
    return Row(case.name, case.operation, peer.name, peer.ours, "absent", peer.absent)


def measure(case: Case, peer: Peer, truth: Truth) -> Row:
    """Checks and measures one peer in one case. A peer's wrong result or exception becomes the row's status."""
    row = absent(case, peer)
    if peer.absent:
        return row
    try:
        run = peer.build(case, truth.inputs, truth.cotangent)
        outputs = run.forward()
        results = run.results(outputs, backward(run, outputs))
        row.error = truth.error([x.detach() for x in results])
        del outputs, results
        if not row.error <= 1:
            row.status, row.reason = "wrong", f"{row.error:.3g} of the allowed error"
            return row
        row.kept_bytes, row.extra_bytes = memory(run)
        samples, host = times(case, peer, truth, run)
    except Exception as error:
        row.status = "failed"
        row.reason = f"{type(error).__name__}: {first_line(error)[:200]}"
        return row
    row.status, row.median_ms = "right", statistics.median(samples)
    row.host_us = statistics.median(host) if host else math.nan
    row.q20_ms, *_, row.q80_ms = statistics.quantiles(samples, n=5, method="inclusive")
    return row


def memory(run: Run) -> tuple[int, int]:
    """(bytes kept for backward, backward's peak beyond its results, -1 on a CPU)."""
    if not run.leaves[0].is_cuda:
        return saved_bytes(lambda: run.forward()[0], known=run.leaves), -1
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    outputs = run.forward()
    kept = torch.cuda.memory_allocated() - before - sum(x.nbytes for x in outputs)
    start = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    grads = backward(run, outputs)
    extra = torch.cuda.max_memory_allocated() - start - sum(g.nbytes for g in grads)
    return kept, max(extra, 0)


def times(case: Case, peer: Peer, truth: Truth, first: Run) -> tuple[list[float], list[float]]:
    """(milliseconds of each pass, the host's microseconds of each forward call, empty on a CPU)."""
    device = truth.inputs[0].device
    if device.type != "cuda":
        return [_clocked(first) for _ in range(5)][1:], []
    bytes_each = sum(x.nbytes for x in truth.inputs) * 2
    copies = min(16, 1 + 2 * torch.cuda.get_device_properties(device).L2_cache_size // bytes_each)
    dtype = truth.inputs[0].dtype
    others = [peer.build(case, case.inputs(device, dtype, 10 + i), truth.cotangent) for i in range(copies - 1)]
    events, host = [], []
    for run in islice(cycle([first, *others]), WARMUP + PASSES):
        torch.cuda._sleep(HEAD_START)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        called = time.perf_counter()
        outputs = run.forward()
        host.append(1e6 * (time.perf_counter() - called))
        backward(run, outputs)
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events[WARMUP:]], host[WARMUP:]


def _clocked(run: Run) -> float:
    start = time.perf_counter()
    backward(run, run.forward())
    return 1000 * (time.perf_counter() - start)
