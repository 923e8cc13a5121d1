"""Every mistake gives one sentence and exit code 2, and writes nothing."""

import dataclasses
import errno
import json
import tarfile
from pathlib import Path

import pytest

from hive.config import Config
from hive.config_json import to_json
from hive.train.__main__ import main
from hive.train.cli import parse
from hive_kernels.backends import BACKENDS
from tests.support.tiny_run import TINY


def fails(flags: list[str], out: Path, capsys: pytest.CaptureFixture) -> str:
    """The sentence on standard error; the run must end with 2 before its folder is made."""
    code: str | int | None
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
        (["--kernel", "flash"], '--kernel is "flash", but it must be one of auto, torch, reference, triton, cuda'),
        (["--kernel", "cuda"], "--kernel is cuda, but that can't run on cpu"),
        (["--stages", "2,1"], '--stages is "2,1", but it must be some of 1,2,3'),
        (["--stages", "two"], '--stages is "two", but it must be some of 1,2,3'),
        (["--max-steps", "0"], "--max-steps is 0, but it must be 1 or more"),
        (["--stage1", "projector", "--gate"], "add --no-gate"),
        (["--data", "nowhere.json"], "nowhere.json"),
        (["--vision.weights", "./nowhere"], "./nowhere"),
        (["--language.weights", "./nowhere"], "./nowhere"),
        (["--language.vocab-size", "100"], "The tokenizer has 2048 tokens"),
        (["--vision.selection", "later,3"], "--vision.selection"),
        (["--vision.density", "2"], "--vision.density is 2.0, but it must be above 0 and at most 1"),
        (["--device", "tpu"], '--device is "tpu"'),
        (["--vision.frozen-precision", "fp8"], "--vision.frozen-precision fp8 needs a GPU"),
        (["--vision.frozen-precision", "int4"], "invalid choice 'int4'"),
        (["--vision.frozen-precision", "int8", "--vision.mlp-size", "24"], "the tower has one of 24"),
        (["--resume", "nowhere"], "--resume nowhere is no run folder"),
    ],
)
def test_flags(flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    error = fails([*([] if "--max-steps" in flags else TINY), *flags], tmp_path / "out", capsys)
    assert sentence in " ".join(error.replace("│", " ").split())


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"stages": 5}', '{"vision": 3}', '{"seed": "x"}', "[" * 99999]
)
def test_a_broken_run_folder(text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "config.json").write_text(text)
    assert main(["--resume", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_run_is_continued_in_its_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "config.json").write_text(to_json(Config(out=Path("where/it/was"))))
    assert parse(["--resume", str(tmp_path)]).config.out == tmp_path
    assert parse(["--resume", str(tmp_path), "--out", str(tmp_path)]).config.out == tmp_path
    assert f"--resume {tmp_path} continues a run in its own folder" in fails(
        ["--resume", str(tmp_path)], tmp_path / "other", capsys
    )


@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(errno.ENOSPC, "", "/big"), 2, "error: The disk or its quota is full (/big): make room"),
        (OSError(errno.EDQUOT, "", "/big"), 2, "error: The disk or its quota is full (/big): make room"),
        (PermissionError(errno.EACCES, "No right", "/root"), 2, "error: /root can't be used (No right)"),
    ],
)
def test_what_ends_a_run(raised, code: int, sentence: str, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    def run(command: object) -> int:
        raise raised

    monkeypatch.setattr("hive.train.__main__.run", run)
    assert main(["--dry-run"]) == code
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1


def test_one_process_of_torchrun_speaks(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    for rank in "10":
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / rank / "error.json"))
        assert main(["--seed", "-1"]) == 2
    assert capsys.readouterr().err == "error: --seed is -1, but it must be between 0 and 4294967295.\n"


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


@pytest.mark.parametrize(
    ("heads", "sentence"),
    [("3", "supports heads of 64 or 128, but the language model's are 16 wide"), ("1", "which has no fp32")],
)
def test_what_the_cuda_kernels_do_not_serve(heads, sentence, tmp_path, capsys, monkeypatch):
    """Said before the first step, where the emulator lets the backend run at all."""
    cuda = dataclasses.replace(BACKENDS["cuda"], reason_unavailable=lambda kind: None)
    monkeypatch.setitem(BACKENDS, "cuda", cuda)
    size = {"3": "48", "1": "64"}[heads]
    shape = ["--language.hidden-size", size, "--language.heads", heads, "--language.kv-heads", "1"]
    assert sentence in fails([*TINY, "--kernel", "cuda", *shape], tmp_path / "run", capsys)
