"""One case of a backend's self-check, forward and backward: ``check.py BACKEND CASE [DTYPE]``; bf16 if left out."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu.rows import run_items
from hive_kernels import first_use, launch
from hive_kernels.backends import reason_unavailable
from hive_kernels.selfcheck import cases, check, describe


def main(arguments: list[str]) -> int:
    """Tells a row for each result; returns the exit code."""
    backend, name, *dtypes = arguments
    return run_items([name], lambda name: rows(backend, name, dtypes[0] if dtypes else "bfloat16"))


def rows(backend: str, name: str, dtype_name: str) -> Iterator[dict[str, Any]]:
    """The errors of the case's results, then how long its first launches took and what they had to compile."""
    first_use.skip()  # this is the check
    dtype = getattr(torch, dtype_name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reason = reason_unavailable(backend, device)
    if reason is not None:
        yield {"skipped": reason}
        return
    case = next(case for case in cases(backend) if case.name == name)
    known = {"item": f"{backend} {name}", "dtype": dtype_name}
    start = time.perf_counter()
    with counting() as answers:
        results = check(case, device, dtype, backend)
    seconds = time.perf_counter() - start
    for result in results:
        row = known | {"result": result.name, "error": result.error, "allowed": result.allowed}
        if result.passes:
            yield row | {"text": f"{result.name} {result.error:.2e} of {result.allowed:.2e} in {dtype_name}"}
        else:
            yield row | {"fault": f"{name} is wrong: {describe(result, dtype)}"}
    anew, cached = answers.count(False), answers.count(True)
    text = f"first pass and its reference {seconds:.1f} s, {anew} Triton kernels compiled here, {cached} before"
    yield known | {"first_seconds": seconds, "compiled_here": anew, "compiled_before": cached, "text": text}


@contextmanager
def counting() -> Iterator[list[bool]]:
    """Inside, the list grows by one for each kernel that Triton loads: whether its cache had it."""
    answers: list[bool] = []
    if launch.INTERPRETED or not launch.HAS_TRITON:
        yield answers
        return
    from triton import knobs

    with knobs.compilation.scope():
        knobs.compilation.listener = lambda *, cache_hit, **_: answers.append(cache_hit)
        yield answers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
