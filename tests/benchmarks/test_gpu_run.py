"""``make gpu`` whatever breaks: the files are there, the exit code is right, no process is left, time limits hold."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_run
from benchmarks.gpu.plan import Step
from benchmarks.gpu.record import Record
from benchmarks.gpu.run import Limits, Stop, run
from tests.support.stubbed_plan import ITEMS, PROLOGUE, stub

ROOT = Path(__file__).parents[2]
GRACE = 0.4


class Done:
    """A plan that has run: its record, the files that it left, the seconds, and what it printed."""

    def __init__(self, folder: Path, *plan: Step, seconds: float = 10.0, parallel: int = 8) -> None:
        self.printed: list[str] = []
        self.record = Record(folder, "results")
        start = time.monotonic()
        with Stop() as stop:
            run(plan, self.record, Limits(start + seconds, GRACE, 0.1), stop, parallel, self.printed.append)
        self.seconds = time.monotonic() - start
        self.json: dict[str, Any] = json.loads((folder / "results.json").read_text())
        self.text = (folder / "results.txt").read_text()

    def outcome(self, name: str) -> tuple[str, str]:
        """Status and reason of a step, as the JSON has them."""
        (step,) = [step for step in self.json["steps"] if step["name"] == name]
        return step["status"], step["reason"]


def alive(content: dict[str, Any]) -> list[int]:
    """The processes that rows name and that still run; one that nobody has waited for yet is dead."""
    pids = [pid for row in content["rows"] for pid in row.get("pids", [])]
    assert pids
    return [pid for pid in pids if _state(pid) not in ("", "Z", "X")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("hangs", "cut off", "after 1 s"),
        ("hangs, and ignores SIGTERM", "cut off", "after 1 s"),
        ("crashes", "failed", "ended by SIGSEGV"),
        ("raises", "failed", "exit code 1"),
        ("has no memory left", "failed", "a: OutOfMemoryError: CUDA out of memory"),
        ("is killed for memory", "failed", "ended by SIGKILL, as where memory runs out"),
        ("does not build", "failed", "cmake --build failed with exit code 2"),
        ("lacks something", "skipped", "nvcc not on the PATH"),
        ("writes without end", "cut off", "after 1 s"),
        ("leaves a process", "passed", ""),
        ("tells nonsense", "passed", ""),
    ],
)
def test_whatever_a_step_does(name, status, reason, tmp_path):
    done = Done(tmp_path, stub(name), stub("works", limit=5, after=(name,)))
    assert done.outcome(name) == (status, reason)
    assert done.outcome("works") == ("passed", "")  # whatever came before
    assert done.json["rows"][0]["text"] == "so far"
    assert f"  {name}: so far" in done.printed
    assert done.record.exit_code() == (0 if status == "passed" else 1)
    assert alive(done.json) == []
    assert done.seconds < 1 + 2 * GRACE + 2
    assert f"{name}: {status}" in done.text
    output = "\n".join(done.json["steps"][0]["output"])
    assert ("illegal memory access" in output) == (name == "raises")


def test_a_program_that_can_not_be_started(tmp_path):
    done = Done(tmp_path, Step("gone", ("/nowhere/python",), 5), stub("works", limit=5))
    status, reason = done.outcome("gone")
    assert (status, reason.startswith("/nowhere/python can't be started")) == ("failed", True)
    assert done.outcome("works") == ("passed", "")


def test_items_behind_one_that_ends_or_hangs_its_process_are_done(tmp_path):
    command = (sys.executable, "-S", "-c", PROLOGUE + ITEMS)
    done = Done(tmp_path, Step("items", command, 30, item_limit=2))
    rows = {row["item"]: row.get("fault", "") for row in done.json["rows"] if "item" in row}
    assert rows == {
        "a": "",
        "b": "ended by SIGSEGV",
        "c": "hung for 2 s",
        "d": "AcceleratorError: sticky",
        "e": "",
    }
    assert done.outcome("items") == ("failed", "b: ended by SIGSEGV, and 2 more")
    assert alive(done.json) == []


def test_one_deadline_over_all(tmp_path):
    steps = [replace(stub("hangs", limit=60), name=f"hang {number}", alone=True) for number in range(3)]
    done = Done(tmp_path, *steps, seconds=2.5)
    assert done.seconds < 2.5
    assert [step["status"] for step in done.json["steps"]] == ["cut off", "skipped", "skipped"]
    assert done.outcome("hang 1") == ("skipped", "no time was left")
    assert alive(done.json) == []


def test_what_did_not_pass_is_not_measured(tmp_path):
    shows = (sys.executable, "-S", "-c", PROLOGUE + "tell(text=' '.join(sys.argv[1:])); helper.kill()")
    done = Done(
        tmp_path,
        stub("crashes"),
        stub("works", limit=5),
        Step("needs it", shows, 5, needs=("crashes",)),
        Step("without it", shows, 5, without={"triton": ("crashes",), "cuda": ("works",)}, alone=True),
        Step("not here", shows, 5, unavailable="pytest is not installed"),
    )
    assert done.outcome("needs it") == ("skipped", "crashes did not pass")
    assert done.outcome("without it") == ("skipped", "triton, whose check did not pass")
    assert done.outcome("not here") == ("skipped", "pytest is not installed")
    assert [row["text"] for row in done.json["rows"] if row["step"] == "without it"] == [
        "so far",
        "--without triton=crashes did not pass",
    ]
    assert done.record.exit_code() == 1


def test_nothing_runs_beside_a_step_that_measures(tmp_path):
    code = PROLOGUE + "helper.kill(); start = time.monotonic(); time.sleep(float(sys.argv[1])); "
    code += "tell(span=[start, time.monotonic()])"
    steps = [
        Step(name, (sys.executable, "-S", "-c", code, seconds), 20, alone=name == "alone")
        for name, seconds in {"a": "0.1", "alone": "0.1", "b": "2", "c": "2"}.items()
    ]
    done = Done(tmp_path, *steps)
    spans = {row["step"]: row["span"] for row in done.json["rows"] if "span" in row}
    assert spans["a"][1] <= spans["alone"][0] <= spans["alone"][1] <= min(spans["b"][0], spans["c"][0])
    assert max(spans["b"][0], spans["c"][0]) < min(spans["b"][1], spans["c"][1])  # these two at once
    assert done.record.exit_code() == 0


def test_a_plan_that_would_wait_for_ever_is_a_mistake_of_ours(tmp_path):
    with pytest.raises(AssertionError, match="works waits for"):
        Done(tmp_path, stub("works", after=("later",)), replace(stub("works"), name="later"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_parent(number, tmp_path):
    program = [sys.executable, "-m", "tests.support.stubbed_plan", str(tmp_path)]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        while "hangs: so far" not in parent.stdout.readline():
            pass
        sent = time.monotonic()
        parent.send_signal(number)
        code = parent.wait(10)
    took = time.monotonic() - sent
    content = json.loads((tmp_path / "results.json").read_text())
    outcomes = {step["name"]: (step["status"], step["reason"]) for step in content["steps"]}
    assert outcomes.pop("works") == ("passed", "")
    assert took < 3
    if number == signal.SIGKILL:  # nobody can write any more, but what was written is whole
        time.sleep(0.2)
        assert (code, content["finished"], outcomes) == (-9, False, {})
        assert _state(content["rows"][1]["pids"][0]) in ("", "Z", "X")
        os.kill(content["rows"][1]["pids"][1], signal.SIGKILL)  # the child's own child has lost its session
        return
    name = number.name
    assert (code, content["finished"]) == (1, True)
    assert outcomes == {"hangs": ("cut off", f"by {name}"), "crashes": ("skipped", f"{name} came before")}
    assert alive(content) == []


def test_a_folder_that_can_not_be_written_is_said_once_and_is_no_pass(tmp_path, capsys):
    (tmp_path / "results.json").mkdir()
    record = Record(tmp_path, "results")
    record.add("step", {"text": "a"})
    record.add("step", {"text": "b"})
    assert capsys.readouterr().err.count("can't be written now") == 1
    assert record.exit_code() == 1
    (tmp_path / "results.json").rmdir()
    record.save()
    assert [row["text"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]] == ["a", "b"]
    assert record.exit_code() == 0


def test_the_parent_imports_no_torch():
    code = "import sys, benchmarks.gpu_run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_what_is_missing_is_said_at_once(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HIVE_RESULTS", str(tmp_path))
    monkeypatch.setattr(gpu_run, "missing", lambda: ["tyro", "rich"])
    assert gpu_run.main([]) == 2
    said = capsys.readouterr()
    assert "lacks tyro, rich: docs/gpu.md says how" in said.err
    assert said.err.count("\n") == 1
    assert not said.out  # nothing ran
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", ["-3", "0", "nan", "inf", "soon"])
def test_seconds_that_no_run_can_take(seconds, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu_run.main([f"--seconds={seconds}"])
    assert f"argument --seconds: is {seconds}; allowed: a number above 0" in capsys.readouterr().err


def test_results_that_can_not_be_written_are_said_last(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HIVE_RESULTS", str(tmp_path))
    (tmp_path / "gpu-unknown.json").mkdir()
    assert gpu_run.main(["--seconds", "1"]) == 1
    assert "NOT written to" in capsys.readouterr().out.splitlines()[-1]
