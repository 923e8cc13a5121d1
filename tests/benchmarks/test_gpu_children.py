"""The plan of ``make gpu`` and what its children tell, on a CPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_run
from benchmarks.gpu import rows, steps
from benchmarks.gpu.children import build, check, efficiency, kernels, machine, profile
from benchmarks.gpu.children.profile import Span, summarise
from hive_kernels import first_use, native
from hive_kernels.backends import BACKENDS

ROOT = Path(__file__).parents[2]
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
FACTS: dict[str, Any] = {
    "capability": 86,
    "cores": 16,
    "checks": {"triton": ["cross_attention", "gated_residual"], "cuda": ["cross_attention"]},
    "dtypes": {"triton": "bfloat16", "cuda": "bfloat16"},
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The rows that a child in this process tells."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    monkeypatch.setenv("HIVE_ROWS", str(writing))

    class Told(list[dict[str, Any]]):
        def read(self) -> "Told":
            self[:] = [json.loads(line) for line in os.read(reading, 1 << 20).splitlines()]
            return self

    yield Told()
    first_use.skip(False)
    os.close(reading)
    os.close(writing)


def test_the_plan_is_in_the_order_of_worth():
    plan = steps.plan(FACTS, Path("results/gpu"), fp32=False, rehearsal=False)
    assert [step.name for step in plan] == [
        "compile",
        "build",
        "check triton cross_attention",
        "check triton gated_residual",
        "check cuda cross_attention",
        "kernel tests",
        "own kernels",
        "peers",
        "efficiency, stage 2",
        "efficiency, stage 3",
        "profile",
        "engine tests",
        "compiled peers",
        "autotuned peers",
        "tuning",
    ]
    by_name = {step.name: step for step in plan}
    checks = ("check triton cross_attention", "check triton gated_residual")
    assert by_name["own kernels"].without == {"triton": checks, "cuda": ("check cuda cross_attention",)}
    for name in ("efficiency, stage 2", "efficiency, stage 3", "profile"):
        assert by_name[name].without == {"triton": checks}
    assert by_name["tuning"].needs == checks
    assert by_name["check cuda cross_attention"].needs == ("build",)
    assert by_name["autotuned peers"].limit <= 30
    measures = [step.name for step in plan if step.alone]
    assert measures == [step.name for step in plan[6:] if "tests" not in step.name]


def test_fp32_is_checked_where_it_is_asked_for_and_keeps_nothing_from_being_measured():
    plan = steps.plan(FACTS, Path("results/gpu"), fp32=True, rehearsal=False)
    extra = [step for step in plan if "float32" in step.command]
    assert [step.name for step in extra] == [
        "check triton cross_attention in fp32",
        "check triton gated_residual in fp32",
    ]
    assert not any(set(step.needs) & {each.name for each in extra} for step in plan)


def test_a_rehearsal_is_the_same_plan_on_a_cpu():
    real = steps.plan(FACTS, Path("results/gpu"), fp32=False, rehearsal=False)
    plan = steps.plan(FACTS, Path("results/gpu"), fp32=False, rehearsal=True)
    left_out = {"build", "check cuda cross_attention"}
    assert [step.name for step in plan] == [step.name for step in real if step.name not in left_out]
    for step in plan:
        assert (step.environment["CUDA_VISIBLE_DEVICES"], step.environment["HIVE_REHEARSAL"]) == ("", "1")


def test_every_step_is_a_program_that_exists():
    for step in [steps.machine(False), *steps.plan(FACTS, Path("results/gpu"), fp32=False, rehearsal=False)]:
        assert step.command[:2] == (sys.executable, "-m")
        assert find_spec(step.command[2]) is not None


def test_what_is_needed_is_what_the_documentation_lists():
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    listed = page.split("## What the machine needs")[1].split("pytest for the tests")[0]
    carried = page.split("--dest wheels")[1].split("```")[0].split()
    assert all(f"`{package}`" in listed and package in carried for package in steps.CARRIED.values())


def test_a_rehearsal_tells_no_number(monkeypatch, told):
    monkeypatch.setattr(rows, "REHEARSAL", True)
    rows.tell({"item": "a", "status": "right", "median_ms": 1.0, "launches": 3, "seconds": [1.0], "text": "1.0 ms"})
    rows.tell({"text": "43 launches in 14 s"})
    rows.tell({"item": "b", "fault": "wrong"})
    assert told.read() == [
        {"item": "a", "status": "right", "text": "a right"},
        {"text": "ran"},
        {"item": "b", "fault": "wrong"},
    ]


@WITHOUT_GPU
def test_without_a_gpu_it_says_so_and_leaves_no_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HIVE_RESULTS", str(tmp_path))
    assert gpu_run.main([]) == 2
    error = capsys.readouterr().err
    assert error == "error: No GPU can be used here: --rehearse runs everything on a CPU, without a measurement.\n"
    assert not list(tmp_path.iterdir())


@WITHOUT_GPU
def test_the_machine_tells_what_the_plan_is_made_from(told):
    machine.main([])
    (row,) = told.read()
    assert re.fullmatch(r"torch \S+, built (without CUDA|for CUDA \S+), sees no GPU", row["skipped"])
    machine.main(["cpu"])
    (row,) = told.read()
    assert "cross_attention, short texts" in row["checks"]["triton"]
    assert set(row["checks"]) == {name for name, backend in BACKENDS.items() if backend.checked}
    assert steps.plan(row, Path("results/gpu"), fp32=False, rehearsal=True)


def test_a_check_tells_every_result(told):
    assert check.main(["triton", "gated_residual", "float16"]) == 0
    todo, begin, *results, last = told.read()
    assert (todo, begin) == ({"todo": ["gated_residual"]}, {"begin": "gated_residual"})
    assert [row["result"] for row in results] == ["output", "gradient 0", "gradient 1", "gradient 2"]
    assert all(row["error"] <= row["allowed"] and "fault" not in row for row in results)
    assert "first pass" in last["text"]


def test_a_wrong_result_is_a_fault(told, monkeypatch):
    right = check.check

    def wrong(*given: Any) -> list[Any]:
        return [replace(result, error=9.0) for result in right(*given)]

    monkeypatch.setattr(check, "check", wrong)
    check.main(["triton", "gated_residual", "float16"])
    faults = [row["fault"] for row in told.read() if "fault" in row]
    assert len(faults) == 4
    assert faults[0].startswith("gated_residual is wrong: output in torch.float16 is 9 from the fp64 reference")


def test_a_build_that_fails_is_a_fault_and_one_without_tools_is_skipped(told, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(native, "FILE", tmp_path / "lib.so")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.main(["86"]) == 0
    assert told.read() == [{"skipped": "nvcc and cmake and c++ not on the PATH (there is none)"}]
    for program in ("nvcc", "cmake", "c++"):
        (tmp_path / program).write_text('#!/bin/sh\necho "$@"\n[ $1 != --build ]\n')
        (tmp_path / program).chmod(0o755)
    assert build.main(["86"]) == 1
    assert told.read() == [{"fault": "cmake --build failed with exit code 1"}]
    assert "-DHIVE_CUDA_ARCHITECTURES=86" in capfd.readouterr().out


@WITHOUT_GPU
def test_a_backend_that_did_not_pass_is_not_measured(told):
    names = [f"gate small, {peer}" for peer in ("hive torch", "hive triton", "hive cuda")]
    assert kernels.main(["ours", "--without", "triton=check triton gated_residual did not pass", *names]) == 0
    rows = {row["peer"]: row for row in told.read() if "peer" in row}
    assert (rows["hive torch"]["status"], rows["hive torch"]["median_ms"] > 0) == ("right", True)
    triton = rows["hive triton"]
    assert (triton["status"], triton["reason"]) == ("absent", "check triton gated_residual did not pass")
    assert triton["median_ms"] is None


@WITHOUT_GPU
def test_an_exception_is_a_row_and_the_next_item_follows(told, monkeypatch):
    def breaks(case, peer):
        raise torch.OutOfMemoryError("CUDA out of memory\nTried to allocate")
        yield {}

    monkeypatch.setattr(kernels, "rows", breaks)
    assert kernels.main(["ours", "gate small, hive torch", "gate small, hive cuda"]) == 0
    faults = {row["item"]: row["fault"] for row in told.read() if "fault" in row}
    assert faults == dict.fromkeys(
        ("gate small, hive torch", "gate small, hive cuda"), "OutOfMemoryError: CUDA out of memory"
    )


@WITHOUT_GPU
def test_an_error_of_cuda_that_stays_ends_the_process(told, monkeypatch):
    monkeypatch.setattr(rows, "_cuda_answers", lambda: False)
    monkeypatch.setattr(kernels, "rows", lambda case, peer: [{"text": "done"}])
    assert kernels.main(["ours", "gate small, hive torch", "gate small, hive cuda"]) == rows.STICKY
    assert {"begin": "gate small, hive cuda"} not in told.read()


@WITHOUT_GPU
def test_a_measured_step_is_a_row(told):
    assert efficiency.main(["2", "HIVE, torch"]) == 0
    (row,) = [row for row in told.read() if "method" in row]
    assert (row["method"], row["backend"], row["stage"], row["samples"]) == ("hive", "torch", 2, 2)
    assert len(row["seconds"]) == efficiency.RUNS
    assert profile.main(["--without", "triton=no"]) == 0
    (row,) = [row for row in told.read() if "mfu" in row]
    assert row["mfu"] == pytest.approx(row["flop"] / row["seconds"] / row["matrix_rate"])


def test_launches_and_gaps():
    """Two steps of 100 us: 30 us of a kernel, a gap of 20 us, two kernels at once for 50 us."""
    one = [("a", 0, 30), ("b", 50, 100), ("c", 60, 80)]
    spans = [Span(name, start + 100 * step, end + 100 * step) for step in range(2) for name, start, end in one]
    told = summarise(spans, 2)
    assert (told["launches"], told["busy"]) == (3, 0.8)
    assert (told["gaps_above_10_us"], told["gap_ms"]) == (1, 0.02)
    assert told["longest_gaps_us"] == [{"us": 20, "between": "a -> b"}] * 2
    assert told["kernels_ms"] == {"b": 0.05, "a": 0.03, "c": 0.02}
    assert "fault" in summarise([], 2)


def test_tests_are_rows_and_their_junit_xml_is_written_when_they_are_cut_off(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(
        "import time\ndef test_a(): ...\ndef test_b(): assert 1 == 2\ndef test_c(): time.sleep(60)\n"
    )
    options = ["-p", "benchmarks.gpu.children.pytest_rows", "--junitxml=junit.xml", "test_it.py"]
    reading, writing = os.pipe()
    environment = {**os.environ, "HIVE_ROWS": str(writing), "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "pytest", *options]
    with subprocess.Popen(
        program, cwd=tmp_path, env=environment, pass_fds=[writing], stdout=subprocess.DEVNULL
    ) as tests:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = [json.loads(pipe.readline()) for _ in range(2)]
            time.sleep(0.1)
            tests.send_signal(signal.SIGTERM)
            tests.wait(10)
    assert [(row["item"], row["outcome"]) for row in told] == [
        ("test_it.py::test_a", "passed"),
        ("test_it.py::test_b", "failed"),
    ]
    assert told[1]["fault"].startswith("assert 1 == 2")
    assert 'name="test_b"' in (tmp_path / "junit.xml").read_text()
