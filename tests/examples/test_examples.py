"""The examples do what their first lines say, on pictures made here."""

import json
from pathlib import Path

import pytest

from examples import your_model, your_photographs
from tests.support.pairs_on_the_spot import CAPTIONS, encoded


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, caption in enumerate(CAPTIONS[:6]):
        (folder / f"{number}.jpg").write_bytes(encoded(number, "JPEG"))
        (folder / f"{number}.txt").write_text(f"{caption}\n", encoding="utf-8")
    (folder / "without-caption.jpg").write_bytes(encoded(6, "JPEG"))
    return folder


def test_photographs_become_a_tower_whose_features_are_read(photographs, tmp_path, capsys):
    run = tmp_path / "runs" / "mine"

    assert your_photographs.main(["--folder", str(photographs), "--out", str(run), "--steps", "1"]) == 0

    pairs = json.loads(run.with_name("mine.json").read_text(encoding="utf-8"))
    assert pairs == [{"image": f"{number}.jpg", "caption": caption} for number, caption in enumerate(CAPTIONS[:6])]
    assert (run / "tower" / "model.safetensors").is_file()
    assert "0.jpg: features of shape (1, 17, 192)" in capsys.readouterr().out  # class token and 4 x 4 patches


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("3.txt", "caf\xe9".encode("latin-1"), "3.txt is no UTF-8 (at byte 3): save it as UTF-8."),
        ("3.txt", b" \n", "3.txt is empty: write what 3.jpg shows, or remove the file."),
    ],
)
def test_a_caption_that_cannot_be_used_is_said_before_anything_is_written(
    name, content, sentence, photographs, tmp_path, capsys
):
    (photographs / name).write_bytes(content)
    assert your_photographs.main(["--folder", str(photographs), "--out", str(tmp_path / "runs" / "mine")]) == 2
    assert capsys.readouterr().err == f"error: {photographs / sentence}\n"
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_pairs_is_one_sentence(tmp_path, capsys):
    assert your_photographs.main(["--folder", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
    assert "nowhere is no folder: give the one" in capsys.readouterr().err
    assert your_photographs.main(["--folder", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "has 0 pairs such as beach.jpg and beach.txt: 4 or more are needed." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_photographs_end_with_trainings_exit_code_for_a_mistake(photographs, tmp_path, capsys):
    flags = ["--folder", str(photographs), "--out", str(tmp_path / "run"), "--steps", "0"]
    assert your_photographs.main(flags) == 2
    assert "--max-steps is 0, but it must be 1 or more" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_stays_as_it_is(photographs, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert your_photographs.main(["--folder", str(photographs), "--out", str(tmp_path / "run")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_the_block_gives_what_the_definition_gives(backend, capsys):
    your_model.main(["--backend", backend])

    used = {"auto": "torch"}.get(backend, backend)
    assert f"backend {used}: output (12, 256)" in capsys.readouterr().out


def test_a_backend_that_is_not_there_is_one_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        your_model.main(["--backend", "bogus"])
    assert "backend is 'bogus'; allowed: auto, torch" in capsys.readouterr().err
