"""``python -m benchmarks.gpu_run``, which ``make gpu`` runs: all checks and measurements on a GPU, within 8 minutes.

In this order, each with a time limit: building the CUDA C++ backend for this GPU where nvcc and CMake are installed,
GPU tests, self-checks, a short training run, kernel benchmarks, the efficiency comparison, tuning. One JSON and one
short table are written to benchmarks/results/, or the folder in HIVE_RESULTS, after every step and every benchmark
case, so that a run that is cut off keeps its results. It needs only what the package imports: without pytest it reports
that the tests didn't run, without nvcc that the backend wasn't built.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import cases, peers, report
from benchmarks.measure import Row, Truth, measure
from hive.efficiency.machine import machine, machine_name
from hive_kernels import native, native_file
from hive_kernels.backends import reason_unavailable

BUDGET = {
    "native": 40,
    "tests": 100,
    "self-check triton": 25,
    "self-check cuda": 15,
    "training": 40,
    "benchmarks": 100,
    "efficiency": 100,
    "tuning": 50,
}
"""Seconds; 470 in all. What one step leaves over goes to the benchmarks after it."""
BAD = ("wrong", "failed")
"""Statuses of a row that count as a fault in our backends, but not in a peer."""


@dataclass
class Record:
    """The results so far, and the folder that they are written to."""

    folder: Path
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def save(self) -> None:
        """Writes the results as JSON and as text."""
        stem = f"gpu-{machine_name()}"
        content = {"machine": machine(), "steps": self.steps, "rows": report.rows_as_json(self.rows)}
        report.write(self.folder / f"{stem}.json", content)
        (self.folder / f"{stem}.txt").write_text(self.text() + "\n")

    def text(self) -> str:
        """A line a step, and the table of the benchmarks."""
        lines = [f"{name}: {step['outcome']} ({step['seconds']:.0f} s)" for name, step in self.steps.items()]
        return "\n".join([*lines, report.table(self.rows)])


def run_command(arguments: Sequence[str], seconds: float, program: str = sys.executable) -> dict[str, Any]:
    """Runs ``PROGRAM ARGUMENTS`` for at most ``seconds``; returns its outcome, the seconds taken and its last lines."""
    start = time.monotonic()
    process = subprocess.Popen(
        [program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=report.ROOT.parent,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        outcome = "passed" if process.returncode == 0 else f"failed with exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with its own processes, which hold the pipe open
        output, _ = process.communicate()
        outcome = f"cut off after {seconds:.0f} s"
    return {"outcome": outcome, "seconds": time.monotonic() - start, "output": output.splitlines()[-60:]}


def build_native(seconds: float) -> dict[str, Any]:
    """Builds the CUDA backend's library unless there is one of today's sources with machine code for this GPU."""
    major, minor = torch.cuda.get_device_capability()
    reason = native_file.reason_to_build(native.FILE, (major, minor))
    missing = [program for program in ("nvcc", "cmake", "c++") if shutil.which(program) is None]
    if reason is None or missing:
        outcome = "there already" if reason is None else f"not built: no {missing[0]} ({reason})"
        return {"outcome": outcome, "seconds": 0.0, "output": []}
    options = f"-DHIVE_CUDA_ARCHITECTURES={major}{minor} -DHIVE_TORCH={Path(torch.__file__).parent}"
    lines = f"cmake -S . -B build/native {options} && cmake --build build/native --parallel 8"
    return run_command(["-c", f"{lines} && cmake --install build/native --prefix ."], seconds, program="sh")


def run_tests(seconds: float) -> dict[str, Any]:
    """Runs the tests that need a GPU."""
    if find_spec("pytest") is None:
        return {"outcome": "not run: pytest is not installed", "seconds": 0.0, "output": []}
    options = ["-m", "gpu", "--continue-on-collection-errors", "-rfEs", "--tb=short"]
    return run_command(["-m", "pytest", *options, "tests"], seconds)


def run_selfcheck(backend: str, seconds: float) -> dict[str, Any]:
    """Runs a backend's self-check."""
    reason = reason_unavailable(backend, "cuda")
    if reason is not None:
        return {"outcome": f"not run: {reason}", "seconds": 0.0, "output": []}
    return run_command(["-m", "hive_kernels.selfcheck", backend], seconds)


def run_training(seconds: float) -> dict[str, Any]:
    """Trains the demo for 20 steps with the Triton kernels, some of them profiled."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--kernel", "triton", "--max-steps", "20", "--profile", "--out", str(Path(folder) / "run")]
        return run_command(["-m", "hive.train", *flags], seconds)


def run_efficiency(folder: Path, seconds: float) -> dict[str, Any]:
    """Compares stages 2 and 3 of the paper's SigLIP recipe at a usual caption's length; writes separate files."""
    flags = ["--recipe", "siglip-l-384-mobilellm-350m", "--text-tokens", "16", "--stages", "2,3", "--runs", "3"]
    flags += ["--kernel", "triton"]
    out = str(folder / f"efficiency-{machine_name()}")
    return run_command(["-m", "hive.efficiency", *flags, "--no-fit", "--no-scaling", "--out", out], seconds)


def run_tuning(seconds: float) -> dict[str, Any]:
    """Tunes the tile tables; returns their new text too, in case only the results folder is kept."""
    step = run_command(["-m", "hive_kernels.tune", "--seconds", str(seconds - 30)], seconds)
    tables = (report.ROOT.parent / "hive_kernels").glob("*/measured_tiles.py")
    return step | {"tables": {f"{path.parent.name}/{path.name}": path.read_text() for path in sorted(tables)}}


def run_benchmarks(
    record: Record, seconds: float, chosen: Sequence[cases.Case], device: torch.device
) -> dict[str, Any]:
    """Measures case by case until the time is over; a case that has begun is finished."""
    start = time.monotonic()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    done, unmeasured = 0, []
    for case in chosen:
        if time.monotonic() - start > seconds:
            break
        try:
            truth = Truth(case, device, dtype)
        except torch.OutOfMemoryError:
            unmeasured.append(f"{case.name}: the fp64 reference doesn't fit into memory")
            continue
        for peer in peers.select_peers(case, device):
            record.rows.append(measure(case, peer, truth))
        done += 1
        record.save()
    wrong = [f"{row.case}, {row.peer}: {row.reason}" for row in record.rows if row.ours and row.status in BAD]
    outcome = f"{done} of {len(chosen)} cases" + (f", {len(wrong)} results of ours wrong or failed" if wrong else "")
    return {"outcome": outcome, "seconds": time.monotonic() - start, "output": wrong + unmeasured}


def main(arguments: list[str] | None = None) -> int:
    """Runs all steps; returns the exit code: 0, 1 after a failed step, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_run", description=(__doc__ or "").split("\n")[0])
    parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("this runs on a CUDA GPU, and torch sees none here", file=sys.stderr)
        return 2
    record = Record(report.results_folder())
    left = 0.0
    steps: dict[str, Callable[[float], dict[str, Any]]] = {
        "native": build_native,
        "tests": run_tests,
        "self-check triton": partial(run_selfcheck, "triton"),
        "self-check cuda": partial(run_selfcheck, "cuda"),
        "training": run_training,
        "benchmarks": lambda seconds: run_benchmarks(record, seconds, cases.full(), torch.device("cuda")),
        "efficiency": lambda seconds: run_efficiency(record.folder, seconds),
        "tuning": run_tuning,
    }
    for name, step in steps.items():
        seconds = BUDGET[name] + (left if name == "benchmarks" else 0)
        record.steps[name] = step(seconds)
        left += BUDGET[name] - record.steps[name]["seconds"]
        record.save()
        print(f"{name}: {record.steps[name]['outcome']}", flush=True)
    print(record.text())
    print(f"written to {record.folder}")
    outcomes = {name: step["outcome"] for name, step in record.steps.items()}
    bad = [name for name, outcome in outcomes.items() if "failed" in outcome or "wrong" in outcome]
    bad += ["tests"] if "cut off" in outcomes["tests"] else []
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
