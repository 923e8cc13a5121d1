"""A checkpoint is whole or not there: after kill -9 at any moment, on a damaged disk and on a full one."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from hive import checkpoint
from hive.checkpoint import CheckpointError, check_fingerprints, load, newest, save
from hive.errors import UserError

FINGERPRINTS = {"config": "c", "tokenizer": "t", "data": "d"}


def save_step(folder: Path, step: int, keep: int = 2) -> Path:
    return save(
        folder,
        step=step,
        tensors={"weight": torch.full((3,), float(step))},
        scalars={"step": step},
        fingerprints=FINGERPRINTS,
        keep=keep,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_newest(folder: Path, step: int) -> None:
    path = newest(folder)
    assert path is not None
    assert load(path).step == step
    assert torch.equal(load(path).tensors["weight"], torch.full((3,), float(step)))


def test_round_trip_is_bit_equal(tmp_path: Path) -> None:
    flat = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    tensors = {
        "left": flat[:, :2],
        "right": flat[:, 2:].T,
        "row": flat[1],
        "scalar": torch.tensor(float("nan")),
        "empty": torch.empty(0, 3),
        "half": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
        "rng": torch.arange(5, dtype=torch.uint8),
        "leaf": torch.nn.Parameter(torch.ones(2)),
    }
    scalars = {"loss": 0.1 + 0.2, "stage": 2, "history": [float("inf")], "name": "müsli"}
    path = save(tmp_path, step=1234, tensors=tensors, scalars=scalars, fingerprints=FINGERPRINTS, keep=2)
    assert path == newest(tmp_path) == tmp_path / "step-00001234"
    got = load(path)
    assert (got.step, got.scalars, got.fingerprints) == (1234, scalars, FINGERPRINTS)
    assert got.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert got.tensors[name].dtype == tensor.dtype
        assert got.tensors[name].shape == tensor.shape
        assert torch.equal(got.tensors[name].nan_to_num(7), tensor.nan_to_num(7))


def test_tied_weights_are_refused(tmp_path: Path) -> None:
    weight = torch.ones(2)
    with pytest.raises(AssertionError, match="pass tied weights once"):
        save(tmp_path, step=1, tensors={"a": weight, "b": weight}, scalars={}, fingerprints={}, keep=2)
    assert names(tmp_path) == []


def test_the_newest_two_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") is None
    assert newest(tmp_path) is None
    for step in (9, 99_999_999, 100_000_000):
        (tmp_path / ".tmp-7-dead").mkdir()
        save_step(tmp_path, step)
    assert names(tmp_path) == ["step-100000000", "step-99999999"]
    assert_newest(tmp_path, 100_000_000)  # by number, not by name


def test_a_broken_one_does_not_count_as_kept(tmp_path: Path) -> None:
    save_step(tmp_path, 1)
    (save_step(tmp_path, 2) / "manifest.json").unlink()
    save_step(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_saving_before_a_broken_later_step_deletes_no_good_one(tmp_path: Path) -> None:
    save_step(tmp_path, 1)
    (save_step(tmp_path, 9) / "scalars.json").unlink()
    save_step(tmp_path, 2, keep=1)
    with pytest.warns(UserWarning, match="step-00000009: scalars.json is missing"):
        assert_newest(tmp_path, 2)


def test_a_step_that_is_there_is_left_alone_and_a_broken_one_replaced(tmp_path: Path) -> None:
    path = save_step(tmp_path, 1)
    before = (path / "manifest.json").stat().st_ino
    assert save_step(tmp_path, 1) == path
    assert (path / "manifest.json").stat().st_ino == before
    with pytest.raises(UserError, match="choose another --out"):
        save(tmp_path, step=1, tensors={}, scalars={}, fingerprints={"config": "other"}, keep=2)
    (path / "tensors.safetensors").write_bytes(b"")
    save_step(tmp_path, 1)
    assert names(tmp_path) == ["step-00000001"]
    assert_newest(tmp_path, 1)


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flipped tensors": (lambda p: flip_last_byte(p / "tensors.safetensors"), "tensors.safetensors is damaged"),
    "flipped scalars": (lambda p: flip_last_byte(p / "scalars.json"), "scalars.json is damaged"),
    "truncated": (lambda p: os.truncate(p / "tensors.safetensors", 10), "has 10 bytes instead of"),
    "no tensors": (lambda p: (p / "tensors.safetensors").unlink(), "tensors.safetensors is missing"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing"),
    "half a manifest": (lambda p: os.truncate(p / "manifest.json", 40), "can't be read"),
    "not a manifest": (lambda p: (p / "manifest.json").write_text("[]"), "can't be read"),
    "edited manifest": (
        lambda p: (p / "manifest.json").write_text((p / "manifest.json").read_text().replace('"step": 2', '"step": 3')),
        "manifest.json is damaged",
    ),
    "later version": (
        lambda p: (p / "manifest.json").write_text(
            (p / "manifest.json").read_text().replace('"format": 1', '"format": 2')
        ),
        "format is 2",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_seen_and_skipped(tmp_path: Path, kind: str) -> None:
    damage, reason = DAMAGE[kind]
    save_step(tmp_path, 1)
    path = save_step(tmp_path, 2)
    damage(path)
    said: list[str] = []
    assert newest(tmp_path, said.append) == tmp_path / "step-00000001"
    assert len(said) == 1
    assert str(path) in said[0]
    assert reason in said[0]
    with pytest.raises(UserError, match="choose another, or start a new run"):
        load(path)


def test_loading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "step-00000001")


KILL = """
import os, signal, sys
from pathlib import Path
import torch
from hive.checkpoint import save

def save_step(folder, step):
    save(folder, step=step, tensors={"weight": torch.full((3,), float(step))}, scalars={"step": step},
         fingerprints={}, keep=2)

for moment in range(int(sys.argv[2])):
    folder = Path(sys.argv[1]) / str(moment)
    child = os.fork()
    if child == 0:
        save_step(folder, 1)
        save_step(folder, 2)
        calls = 0
        def deadly(call):
            def wrapper(*arguments):
                global calls
                if calls == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
                return call(*arguments)
            return wrapper
        os.fsync, os.rename = deadly(os.fsync), deadly(os.rename)
        save_step(folder, 3)
        os._exit(0)
    print(os.waitpid(child, 0)[1])
"""


def test_kill_9_at_every_moment_of_a_save(tmp_path: Path) -> None:
    # The moments: syncing tensors, scalars, manifest and folder, the rename, syncing the parent, hiding the oldest.
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(tmp_path), "8"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(checkpoint.__file__).parents[1],
        timeout=120,
    )
    assert [int(line) for line in done.stdout.split()] == [9] * 7 + [0], done.stderr
    for moment in range(8):
        folder = tmp_path / str(moment)
        assert len(list(folder.glob(".tmp-*"))) == (moment < 5)
        assert_newest(folder, 2 if moment < 5 else 3)
        save_step(folder, 4)
        assert_newest(folder, 4)
        assert len(names(folder)) == 2


def test_a_full_disk_by_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_step(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=checkpoint.MARGIN))
    with pytest.raises(CheckpointError, match=r"step 2 .*needs 17 MB and 17 MB are free.*earlier .* untouched"):
        save_step(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize(
    "fault",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error"), KeyboardInterrupt()],
    ids=["system", "safetensors", "interrupt"],
)
@pytest.mark.parametrize("target", ["checkpoint.save_file", "os.fsync"])
def test_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, fault: BaseException) -> None:
    save_step(tmp_path, 1)

    def fail(*arguments: object) -> None:
        if target == "checkpoint.save_file":
            Path(str(arguments[1])).write_bytes(b"half")
        raise fault

    monkeypatch.setattr(checkpoint if target == "checkpoint.save_file" else os, target.split(".")[1], fail)
    expected = KeyboardInterrupt if isinstance(fault, KeyboardInterrupt) else CheckpointError
    with pytest.raises(expected):
        save_step(tmp_path, 2)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]
    assert_newest(tmp_path, 1)


def test_fingerprints_name_what_differs() -> None:
    check_fingerprints(FINGERPRINTS, dict(FINGERPRINTS))
    with pytest.raises(UserError) as caught:
        check_fingerprints(FINGERPRINTS, FINGERPRINTS | {"tokenizer": "x", "data": "y"})
    text = str(caught.value)
    assert "The tokenizer (x) differs from the checkpoint's (t): pass the tokenizer" in text
    assert "The data (y) differs from the checkpoint's (d): point --data" in text
    assert "config (" not in text
    with pytest.raises(UserError, match=r"The config \(none\) differs"):
        check_fingerprints({"config": "c"}, {})
