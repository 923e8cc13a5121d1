"""The whole command on a tiny model: batches, resuming, refusals, mistakes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from hive.evaluate import run as run_module
from hive.evaluate.__main__ import main
from hive.evaluate.predictions import PREDICTIONS
from hive.vlm.answering import Answerer
from tests.support.official_folders import MAKE, make_gqa, make_mme, make_scienceqa
from tests.support.tiny_llava import save_tiny_llava


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_tiny_llava(tmp_path_factory.mktemp("tiny") / "llava")


def test_batches_give_the_answers_of_one(model: Path) -> None:
    """Prompts of very different lengths, some without an image: left padding, masks and positions all have to hold."""
    answerer = Answerer(model, torch.device("cpu"))
    words = "how many red cats sit on the old chair near a lake in the far north".split()  # noqa: SIM905
    prompts = []
    for number in range(12):
        colours = [Image.new("RGB", (30, 20), (20 * number, 90, 255 - 20 * number))] if number % 3 else []
        prompts.append((" ".join(words[: 1 + (5 * number) % 15]) + "?", colours))
    alone = [answerer([prompt], 12)[0] for prompt in prompts]
    assert len(set(alone)) > 6  # not all the same, or nothing would be tested
    for size in (2, 5, 12):
        together = [text for start in range(0, 12, size) for text in answerer(prompts[start : start + size], 12)]
        assert together == alone
    blue = answerer([(prompts[1][0], [Image.new("RGB", (30, 20), "blue")])], 12)
    assert blue != alone[1:2]  # the image is read


@pytest.mark.parametrize("name", MAKE)
def test_every_benchmark(name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = MAKE[name](tmp_path / "set")
    usual = ["--model", str(model), "--benchmark", name, "--data-root", str(root), "--device", "cpu"]
    assert main([*usual, "--out", str(tmp_path / "one"), "--report"]) == 0
    shown = capsys.readouterr().out
    for part in ("paper, Table 2", "this model", "no comparison", "unanswerable", "unparsed", "missing an image"):
        assert part in shown
    assert main([*usual, "--out", str(tmp_path / "many"), "--batch-size", "4"]) == 0
    one, many = ((tmp_path / out / PREDICTIONS).read_text() for out in ("one", "many"))
    assert one == many
    record = json.loads(one.splitlines()[0])
    assert record.keys() == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    assert json.loads((tmp_path / "one" / "score.json").read_text())["rows"]


def test_interrupted_and_killed_in_a_line(model: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """Whole lines stay, a cut one goes, nothing is asked twice, and the end is the same."""
    root = make_mme(tmp_path / "set")
    usual = ["--model", str(model), "--benchmark", "mme", "--data-root", str(root), "--device", "cpu"]
    assert main([*usual, "--out", str(tmp_path / "whole")]) == 0
    asked: list[str] = []
    read = run_module._read_images

    def stop_at_10(question):
        if len(asked) == 10:
            raise KeyboardInterrupt
        asked.append(question.id)
        return read(question)

    monkeypatch.setattr(run_module, "_read_images", stop_at_10)
    assert main([*usual, "--out", str(tmp_path / "cut")]) == 130
    assert "Saved 10 answers" in capsys.readouterr().out

    def note(question):
        asked.append(question.id)
        return read(question)

    monkeypatch.setattr(run_module, "_read_images", note)
    path = tmp_path / "cut" / PREDICTIONS
    path.write_text(path.read_text()[:-20])
    assert main([*usual, "--out", str(tmp_path / "cut")]) == 0
    assert "9 of 30 answers are there already" in capsys.readouterr().out
    assert len(asked) == 31
    assert path.read_text() == (tmp_path / "whole" / PREDICTIONS).read_text()
    monkeypatch.setattr("hive.vlm.answering.Answerer", None)  # finished: no model is loaded any more
    assert main([*usual, "--out", str(tmp_path / "cut")]) == 0


def test_predictions_of_something_else_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root, out = make_gqa(tmp_path / "set"), tmp_path / "out"
    usual = ["--data-root", str(root), "--device", "cpu", "--out", str(out)]
    assert main(["--model", str(model), "--benchmark", "gqa", *usual]) == 0
    before = (out / PREDICTIONS).read_bytes()
    other = save_tiny_llava(tmp_path / "other", seed=1)
    assert main(["--model", str(other), "--benchmark", "gqa", *usual]) == 2
    assert "holds predictions of another model" in capsys.readouterr().err
    make_scienceqa(root)
    assert main(["--model", str(model), "--benchmark", "scienceqa", *usual]) == 2
    assert "holds predictions of another benchmark" in capsys.readouterr().err
    original = (root / "testdev_balanced_questions.json").read_text()
    questions = json.loads(original)
    questions["201"]["answer"] = "blue"
    (root / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    assert main(["--model", str(model), "--benchmark", "gqa", *usual]) == 2
    assert "holds predictions of another data set" in capsys.readouterr().err
    (root / "testdev_balanced_questions.json").write_text(original)
    (out / PREDICTIONS).write_bytes(before + b'{"question_id": "201"}\n')
    assert main(["--model", str(model), "--benchmark", "gqa", *usual]) == 2
    assert "has a line that is no prediction" in capsys.readouterr().err
    (out / PREDICTIONS).write_bytes(before)
    (out / "manifest.json").unlink()
    assert main(["--model", str(model), "--benchmark", "gqa", *usual]) == 2
    assert "without a readable manifest.json" in capsys.readouterr().err
    assert (out / PREDICTIONS).read_bytes() == before


def test_missing_and_broken_images_are_counted_and_asked_later(model: Path, tmp_path: Path, capsys) -> None:
    root = make_gqa(tmp_path / "set")
    image = root / "images" / "n1.jpg"
    kept = image.read_bytes()
    image.write_bytes(kept[:50])
    usual = ["--model", str(model), "--benchmark", "gqa", "--data-root", str(root), "--device", "cpu", "--report"]
    usual += ["--out", str(tmp_path / "out")]
    assert main(usual) == 0
    assert "missing an image        2" in capsys.readouterr().out
    image.write_bytes(kept)
    assert main(usual) == 0
    assert "missing an image        0" in capsys.readouterr().out


def test_mistakes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = make_gqa(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_bytes((model / "config.json").read_bytes())
    shutil.copytree(model, tmp_path / "silent", ignore=shutil.ignore_patterns("chat_template*"))
    here = sorted(tmp_path.iterdir())
    for changes, said in (
        ({"--model": "empty"}, "--model empty is no model folder"),
        ({"--model": "llama"}, "is a llama model"),
        ({"--model": "half"}, "can't be loaded"),
        ({"--model": "silent"}, "does not have a chat template"),
        ({"--data-root": "empty"}, "lacks testdev_balanced_questions.json"),
        ({"--benchmark": "vqa"}, '--benchmark is "vqa", but it must be one of mme, gqa, okvqa, scienceqa'),
        ({"--batch-size": "0"}, "--batch-size is 0, but it must be 1 or more"),
        ({"--device": "tpu"}, '--device is "tpu"'),
    ):
        flags = {"--model": str(model), "--benchmark": "gqa", "--data-root": str(root), "--out": "out"} | changes
        assert main([part for pair in flags.items() for part in pair]) == 2
        shown = capsys.readouterr().err
        assert said in shown
        assert shown.startswith("error: ")
        assert sorted(tmp_path.iterdir()) == here


def test_help_is_quick_and_says_what_there_is() -> None:
    done = subprocess.run([sys.executable, "-m", "hive.evaluate", "--help"], capture_output=True, text=True, check=True)
    assert "scienceqa" in done.stdout
