"""A run that is stopped, by whatever, and resumed is bit for bit the run that never stopped."""

import shutil
import signal
import socket
from pathlib import Path

import pytest
import torch

from hive import checkpoint
from hive.files import INJECTION
from tests.support.tiny_run import TINY, last_checkpoint, records, start, train, wait_until

FLAGS = [*TINY, "--save-every", "2"]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("resume") / "out"
    torch.set_num_threads(1)
    assert train([*FLAGS, "--out", str(out)]) == 0
    return out


def assert_same(run: Path, expected: Path) -> None:
    assert records(run) == records(expected)
    assert records(run, "heldout") == records(expected, "heldout")
    assert (run / INJECTION).read_text() == (expected / INJECTION).read_text()
    ours, theirs = (checkpoint.load(last_checkpoint(folder)) for folder in (run, expected))
    assert ours.step == theirs.step == 12
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in theirs.tensors)


@pytest.mark.parametrize("step", [2, 4, 6, 12])
def test_resumed_from_a_checkpoint(step: int, never_stopped: Path, tmp_path: Path, monkeypatch) -> None:
    """Mid-stage, and at the end of a stage and of the run: the later checkpoints are taken away."""
    out = tmp_path / "out"
    monkeypatch.setattr(checkpoint, "_remove_older", lambda *arguments: None)
    assert train([*FLAGS, "--out", str(out)]) == 0
    for path in (out / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    assert train(["--resume", str(out)]) == 0
    assert_same(out, never_stopped)


@pytest.mark.parametrize("left", ["1,2,3", "2,3"])
def test_stages_one_run_at_a_time(left: str, never_stopped: Path, tmp_path: Path) -> None:
    """A new stage starts with a new optimiser, whether or not --stages names the finished one."""
    out = tmp_path / "out"
    assert train([*FLAGS, "--out", str(out), "--stages", "1"]) == 0
    assert train(["--resume", str(out), "--stages", left]) == 0
    assert_same(out, never_stopped)


@pytest.mark.parametrize("save", [1, 3])
def test_killed_in_the_middle_of_a_save(save: int, never_stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*FLAGS, "--out", str(out))
    seen: set[str] = set()

    def nth_save_began() -> bool:
        folder = out / "checkpoints"
        seen.update(
            path.name for path in (folder.iterdir() if folder.exists() else ()) if path.name.startswith(".tmp-")
        )
        return len(seen) >= save

    wait_until(nth_save_began, process)
    process.kill()
    process.communicate()
    assert train(["--resume", str(out)]) == 0
    assert_same(out, never_stopped)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_exits(number: signal.Signals, never_stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*FLAGS, "--out", str(out))
    wait_until(lambda: (out / "checkpoints").exists(), process)
    process.send_signal(number)
    shown, errors = process.communicate()
    assert process.returncode == 128 + number, errors
    assert f"--resume {out}" in shown
    assert train(["--resume", str(out)]) == 0
    assert_same(out, never_stopped)


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    flags = [*FLAGS, "--out", str(out), "--max-steps", "2000"]
    processes = [start(*flags, RANK=str(rank), **address) for rank in (0, 1)]
    wait_until(lambda: (out / "checkpoints").exists(), processes[1])
    processes[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], errors
    newest = checkpoint.load(last_checkpoint(out))
    assert newest.step == len(records(out))


def test_resuming_with_another_config_is_refused(never_stopped: Path, capsys: pytest.CaptureFixture) -> None:
    assert train(["--resume", str(never_stopped), "--seed", "1"]) == 2
    assert "--seed is 1, but the run that --resume continues has 0" in capsys.readouterr().err


def test_stages_cannot_be_skipped_on_resume(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert train([*FLAGS, "--out", str(out), "--stages", "1,2"]) == 0
    assert train(["--resume", str(out), "--stages", "1"]) == 2
    assert "already finished stage 2" in capsys.readouterr().err
    shutil.rmtree(last_checkpoint(out))
    assert train(["--resume", str(out), "--stages", "3"]) == 2
    assert "in the middle of stage 2: include 2" in capsys.readouterr().err


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    """In mid-stage it is a warning; a stage that can't be saved ends the run with a sentence."""
    write = checkpoint.save
    full = {2, 8}

    def save(folder: Path, *, step: int, **rest):
        if step in full:
            raise checkpoint.CheckpointError(f"No room for step {step}.")
        return write(folder, step=step, **rest)

    monkeypatch.setattr(checkpoint, "save", save)
    assert train([*FLAGS, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert "warning: No room for step 2." in shown.out
    assert shown.err == "error: No room for step 8.\n"
    assert last_checkpoint(tmp_path / "out").name == "step-00000006"
