"""What bad records and images do to a run: it goes on without them, says so, and stops where they are too many."""

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from hive import checkpoint
from hive.config import DataConfig
from hive.data.ledger import LEDGER
from hive.data.order import indices
from hive.data.pairs import open_pairs, split_heldout
from hive.files import read_records
from tests.support.pairs_on_the_spot import encoded
from tests.support.tiny_run import TINY, last_checkpoint, records, start, train

ONE_STAGE = [*TINY, "--stages", "1"]


def make_set(folder: Path, bad: Sequence[int], images: int = 40) -> Path:
    """A JSON of pairs, of which the images `bad` are cut off."""
    folder.mkdir(exist_ok=True)
    for number in range(images):
        data = encoded(number)
        (folder / f"{number}.png").write_bytes(data[: len(data) // 2] if number in bad else data)
    items = [{"image": f"{number}.png", "caption": f"shade number {number}"} for number in range(images)]
    (folder / "data.json").write_text(json.dumps(items))
    return folder / "data.json"


def listed(run: Path) -> list[str]:
    return [record["file"] for record in read_records(run / LEDGER)]


def scalars(run: Path) -> dict:
    return checkpoint.load(last_checkpoint(run)).scalars


def test_one_bad_image_does_not_end_a_long_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """15 epochs of 40 pairs: the image is read and bad in each, said once and counted once."""
    data = make_set(tmp_path / "set", [7])
    flags = ["--epochs", "15", "--max-steps", "75", "--data", str(data)]
    assert train([*ONE_STAGE, *flags, "--out", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("7.png (damaged or cut off") == 1
    assert f"later ones are listed in {tmp_path / 'run' / LEDGER}" in shown
    assert "bad samples so far: 1, listed in" in shown
    assert listed(tmp_path / "run") == ["7.png"]
    assert scalars(tmp_path / "run")["ledger"] == {"seen": 600, "bad": 1}
    assert len(records(tmp_path / "run")) == 75


def test_a_run_with_too_many_bad_images_stops_saved_and_is_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It resumes from the step where it stopped, and ends as one that had the higher share from the start."""
    data = make_set(tmp_path / "set", range(0, 40, 3))  # 14, of which 10 are allowed
    flags = [*ONE_STAGE, "--max-steps", "12", "--data", str(data)]
    out, whole = tmp_path / "run", tmp_path / "whole"
    assert train([*flags, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "samples read so far are bad, the last of them" in error
    assert f"--resume {out} --dataset.max-bad-share" in error
    stopped = scalars(out)["step"]
    assert stopped == len(records(out)) < 12
    assert len(listed(out)) == scalars(out)["ledger"]["bad"] > 10

    assert train(["--resume", str(out)]) == 2  # nothing has changed
    assert "--dataset.max-bad-share" in capsys.readouterr().err
    assert scalars(out)["step"] == stopped

    assert train(["--resume", str(out), "--dataset.max-bad-share", "0.5"]) == 0
    assert train([*flags, "--out", str(whole), "--dataset.max-bad-share", "0.5"]) == 0
    assert records(out) == records(whole)
    assert listed(out) == listed(whole)


def test_a_mended_set_is_continued_without_its_list(tmp_path: Path) -> None:
    data, out = make_set(tmp_path / "set", range(14)), tmp_path / "run"
    assert train([*ONE_STAGE, "--max-steps", "12", "--data", str(data), "--out", str(out)]) == 2
    make_set(tmp_path / "set", [])
    (out / LEDGER).unlink()
    assert train(["--resume", str(out)]) == 0
    assert not (out / LEDGER).exists()


def test_bad_records_are_listed_at_the_start(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", [])
    items = json.loads(data.read_text())
    items[2]["caption"] = 3
    items[5]["image"] = "nowhere.png"
    del items[9]["image"]
    data.write_text(json.dumps(items))
    flags = [*ONE_STAGE, "--max-steps", "1", "--data", str(data)]
    assert train([*flags, "--out", str(tmp_path / "run")]) == 0
    assert [(record["file"], record["bad"]) for record in read_records(tmp_path / "run" / LEDGER)] == [
        ("data.json record 2", True),
        ("data.json record 5", True),
        ("data.json record 9", False),
    ]
    assert train(["--resume", str(tmp_path / "run"), "--stages", "1,2"]) == 0
    assert len(listed(tmp_path / "run")) == 3


def test_too_many_bad_records_end_a_run_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = make_set(tmp_path / "set", [])
    items = json.loads(data.read_text())
    for item in items[:11]:
        item["caption"] = ""
    data.write_text(json.dumps(items))
    flags = [*ONE_STAGE, "--max-steps", "1", "--data", str(data), "--out", str(tmp_path / "run")]
    assert train(flags) == 2
    assert "11 of 40 records are bad, such as data.json record 0 (its caption is empty" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert train([*flags, "--dataset.max-bad-share", "0.02"]) == 0


def bad_of_first_step(data: Path) -> None:
    """Spoils the images of the first step's batch, and of no other pair."""
    pairs, _ = split_heldout(open_pairs(str(data), None, DataConfig()), 8, 0)
    for _, index in indices(len(pairs), 1, 0, 8):
        (data.parent / pairs.names[index]).write_bytes(b"")


def run_processes(flags: list[str], number: int) -> str:
    """What the first of the processes prints; all must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(number)}
    ranks = [start(*flags, RANK=str(rank), **address) for rank in range(number)]
    shown, errors = zip(*[rank.communicate(timeout=120) for rank in ranks], strict=True)
    assert [rank.returncode for rank in ranks] == [0] * number, errors
    return shown[0]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_of_bad_images_changes_nothing_and_the_run_goes_on(
    processes: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, out = make_set(tmp_path / "set", []), tmp_path / "run"
    bad_of_first_step(data)
    flags = [*ONE_STAGE, "--data", str(data), "--out", str(out)]
    if processes == 1:
        assert train(flags) == 0
        shown = capsys.readouterr().out
    else:
        shown = run_processes(flags, processes)
    assert shown.count("step 1: no update, since none of its samples can be used") == 1
    assert [record["step"] for record in records(out)] == [2, 3, 4]
    assert len(listed(out)) == 8
    assert scalars(out)["step"] == 4


@pytest.mark.parametrize(("images", "steps"), [(12, "50"), (40, "2")])
def test_a_run_without_a_usable_sample_ends(
    images: int, steps: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """After all the data was read once, or at the end of a stage that is shorter."""
    data = make_set(tmp_path / "set", range(images), images)
    flags = [*ONE_STAGE, "--data", str(data), "--max-steps", steps, "--dataset.max-bad-share", "1"]
    assert train([*flags, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "No step so far had a sample that can be used, such as " in error
    assert "damaged or cut off" in error
    assert not (tmp_path / "run" / "tower").exists()


def test_bad_held_out_images_count_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The evaluation's result is recorded before the run stops, and is not computed again where it is continued."""
    data, out = make_set(tmp_path / "set", [], 60), tmp_path / "run"
    _, held_out = split_heldout(open_pairs(str(data), None, DataConfig()), 8, 0)
    (data.parent / held_out.names[0]).write_bytes(b"")
    flags = [*ONE_STAGE, "--data", str(data), "--out", str(out), "--dataset.max-bad-share", "0"]
    assert train(flags) == 2
    assert f"the last of them {held_out.names[0]} (the file is empty)" in capsys.readouterr().err
    evaluated = records(out, "heldout")
    assert len(evaluated) == 1
    assert train(["--resume", str(out), "--dataset.max-bad-share", "0.1"]) == 0
    assert records(out, "heldout") == evaluated
    assert os.path.isdir(out / "tower")
