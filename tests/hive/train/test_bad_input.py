"""Every mistake gives one sentence and exit code 2, and writes nothing."""

import json
import tarfile
from pathlib import Path

import pytest
from tiny_run import TINY

from hive.train.__main__ import main


def fails(flags: list[str], out: Path, capsys: pytest.CaptureFixture) -> str:
    """The sentence on standard error; the run must end with 2 before its folder is made."""
    try:
        code = main([*flags, "--out", str(out)])
    except SystemExit as exit_:  # mistyped flags never get past the parser
        code = exit_.code
    assert code == 2
    assert not out.exists()
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--recipe", "dem"], '--recipe is "dem", but it must be one of demo'),
        (["--kernel", "flash"], "invalid choice 'flash'"),
        (["--kernel", "cuda"], "not built in this version"),
        (["--batch-size", "10"], "--batch-size is 10 in stage 1, but it must be a multiple of --micro-batch-size"),
        (["--stages", "2,1"], "--stages is 2,1, but it must be some of 1,2,3"),
        (["--stages", "two"], 'it is "two", but it must be some of 1,2,3'),
        (["--max-steps", "0"], "--max-steps is 0, but it must be 1 or more"),
        (["--stage1", "projector"], "add --no-gate"),
        (["--data", "nowhere.json"], "nowhere.json"),
        (["--vision.weights", "./nowhere"], "./nowhere"),
        (["--language.weights", "./nowhere"], "./nowhere"),
        (["--language.vocab-size", "100"], "The tokenizer has 2048 tokens"),
        (["--vision.selection", "later,3"], "--vision.selection"),
        (["--vision.density", "2"], "--vision.density is 2.0, but it must be above 0 and at most 1"),
        (["--device", "tpu"], '--device is "tpu"'),
        (["--resume", "nowhere"], "--resume nowhere is no run folder"),
    ],
)
def test_flags(flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    error = fails([*([] if "--max-steps" in flags else TINY), *flags], tmp_path / "out", capsys)
    assert sentence in " ".join(error.replace("│", " ").split())


def test_a_used_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main([*TINY, "--out", str(tmp_path)]) == 2
    assert f"continue it with --resume {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"image": "../../etc/passwd", "caption": "x"}, "passwd"),
        ({"image": "http://example.com/a.png", "caption": "x"}, "http://example.com/a.png"),
        ({"image": "none.png", "caption": "x"}, "none.png"),
        ({"image": "a.png", "caption": " "}, "empty"),
    ],
)
def test_json_records(item: dict, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "data.json").write_text(json.dumps([item] * 8))
    error = fails([*TINY, "--data", str(tmp_path / "data.json")], tmp_path / "out", capsys)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error


def test_a_tar_with_an_unexpected_member(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "a.pickle").write_bytes(b"x")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(tmp_path / "a.pickle", "a.pickle")
    error = fails([*TINY, "--data", str(tmp_path)], tmp_path / "out", capsys)
    assert "a.pickle" in error
    assert error.count("\n") == 1
