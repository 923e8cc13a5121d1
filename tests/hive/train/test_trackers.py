"""Trackers: who gets a run's numbers, also when it is resumed, and what happens where one fails or is missing."""

import dataclasses
import io
import json
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hive.config import Config
from hive.errors import UserError
from hive.train.cli import parse
from hive.train.dry_run import report
from hive.train.outline import outline
from hive.train.telemetry import Telemetry
from hive.train.trackers import TensorBoard, check_trackers
from tests.support.tiny_run import TINY, records, train

ONE_STAGE = [*TINY, "--stages", "1", "--max-steps", "2", "--dataset.heldout-pairs", "2"]


def offline_records(file: Path) -> Iterator[Any]:
    """What wandb wrote into a .wandb file: protobuf records in LevelDB's log format, in blocks of 32 KiB."""
    messages: Any = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data, place, message = file.read_bytes(), 7, b""  # behind wandb's own mark
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        message += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole one, or the last part
            yield messages.Record.FromString(message)
            message = b""


def tracked(run: Path) -> tuple[set[str], dict[str, Any], dict[int, dict[str, Any]]]:
    """(W&B run ids, the last configuration, what was logged by step) of all offline runs in a run folder."""
    ids: set[str] = set()
    config: dict[str, Any] = {}
    history: dict[int, dict[str, Any]] = {}
    for file in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        for record in offline_records(file):
            if record.HasField("run"):
                ids.add(record.run.run_id)
            for update in [*record.run.config.update, *record.config.update]:
                config[update.key or ".".join(update.nested_key)] = json.loads(update.value_json)
            if record.HasField("history"):
                row = {item.key or ".".join(item.nested_key): json.loads(item.value_json)
                       for item in record.history.item}  # fmt: skip
                history.setdefault(row["_step"], {}).update(row)
    return ids, config, history


def test_a_resumed_run_continues_its_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Really offline: a resumed run is in a second folder with the id of the first, as `wandb sync` wants it."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "run"
    assert train([*ONE_STAGE, "--trackers", "wandb", "--out", str(out)]) == 0
    assert train(["--resume", str(out), "--stages", "1,2", "--trackers", "wandb,tensorboard"]) == 0
    wandb.teardown()  # waits until its process has written all, as at a program's end
    ids, config, history = tracked(out)
    assert len(list((out / "wandb").glob("offline-run-*"))) == 2
    assert ids == {(out / "wandb" / "run-id").read_text().strip()}
    assert config["vision.density"] == 0.5
    assert config["trackers"] == ["wandb", "tensorboard"]
    for record in records(out):
        assert history[record["step"]]["train/loss"] == record["loss"]
    assert [record["step"] for record in records(out)] == [1, 2, 3, 4]
    for record in records(out, "heldout"):
        assert history[record["step"]][f"{record['kind']}/right"] == record["right"]
    assert {step for step, row in history.items() if any(key.startswith("loss curve") for key in row)} == {2, 4}
    assert list((out / "tensorboard").iterdir())


def test_only_jsonl(tmp_path: Path) -> None:
    assert train([*ONE_STAGE, "--trackers", "jsonl", "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert len(records(tmp_path / "run")) == 2


def test_tensorboard_shows_the_run(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 4), (250, 0, 0)).save(tmp_path / "curve.png")
    tracker = TensorBoard(Config(seed=7), tmp_path, 0)
    tracker.record("train", {"step": 3, "stage": 1, "loss": 2.5, "word": "x", "nothing": None})
    tracker.picture("loss curve", tmp_path / "curve.png", 3)
    tracker.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert [(event.step, event.value) for event in shown.Scalars("train/loss")] == [(3, 2.5)]
    assert shown.Tags()["scalars"] == ["train/loss"]
    (image,) = shown.Images("loss curve")
    assert Image.open(io.BytesIO(image.encoded_image_string)).getpixel((0, 0)) == (250, 0, 0)
    (text,) = shown.Tensors("config/text_summary")
    assert b"| seed | 7 |" in text.tensor_proto.string_val[0]


@dataclasses.dataclass
class Failing:
    """A tracker that takes one record and then fails."""

    taken: list[int] = dataclasses.field(default_factory=list)
    name: str = "failing"

    def record(self, group: str, record: Mapping[str, Any]) -> None:
        self.taken.append(record["step"])
        if len(self.taken) > 1:
            raise ConnectionError("the server has gone\nfar away")

    def picture(self, title: str, file: Path, step: int) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    shown, tracker = io.StringIO(), Failing()
    telemetry = Telemetry(tmp_path, Console(file=shown, width=200), last_step=0, trackers=[tracker])
    for step in (1, 2, 3):
        telemetry.record({"step": step, "loss": 1.0}, "train")
    telemetry.show_picture("loss curve", tmp_path / "none.png", 3)
    telemetry.close()
    assert tracker.taken == [1, 2]
    said = "warning: failing failed (the server has gone) and gets no more of this run; metrics.jsonl has everything."
    assert shown.getvalue() == f"{said}\n"
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]


def test_a_name_that_is_no_tracker() -> None:
    with pytest.raises(UserError, match=r'--trackers is "tensorboard,wb", but it must be some of jsonl, '):
        parse(["--trackers", "tensorboard,wb"])


def test_a_tracker_that_is_not_installed_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a folder wandb/, as W&B leaves one, where a program is started."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb", type(sys)("wandb"))
    with pytest.raises(UserError, match="--trackers names wandb, which is not installed: pip install"):
        check_trackers(["wandb"])
    check_trackers(["tensorboard", "jsonl"])
    assert "missing: --trackers names wandb" in report(outline(parse([*TINY, "--trackers", "wandb"]).config))


def test_wandb_that_cannot_start_leaves_no_run_behind(tmp_path: Path) -> None:
    """Nobody has logged in: the same command works once somebody has."""
    pytest.importorskip("wandb")
    flags = [*ONE_STAGE, "--trackers", "wandb", "--out", str(tmp_path / "run")]
    environment = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path), "WANDB_SILENT": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "hive.train", *flags],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --trackers names wandb, which can't start (")
    assert not (tmp_path / "run" / "config.json").exists()
