"""The examples do what their first lines say, on pictures made here."""

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
    """A photograph without a caption is said and left out; the last line is a caption."""
    run = tmp_path / "runs" / "mine"

    assert your_photographs.main(["--folder", str(photographs), "--out", str(run), "--steps", "1"]) == 0

    assert (run / "tower" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "mine-check" / "contact_sheet.png").is_file()
    said = capsys.readouterr().out
    assert "6 pairs, 1 record left out" in said
    assert "0.jpg: features of shape (1, 17, 192)" in said  # class token and 4 x 4 patches
    assert said.splitlines()[-1].startswith(str(photographs / "0.jpg"))


def test_photographs_that_cannot_be_trained_on_are_said_before_the_run(photographs, tmp_path, capsys):
    for number in range(6):
        (photographs / f"{number}.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert your_photographs.main(["--folder", str(photographs), "--out", str(tmp_path / "run")]) == 2
    assert "is not UTF-8 text" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert your_photographs.main(["--folder", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_stays_as_it_is(photographs, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert your_photographs.main(["--folder", str(photographs), "--out", str(tmp_path / "run")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not (tmp_path / "run-check").exists()


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_the_block_gives_what_the_definition_gives(backend, capsys):
    your_model.main(["--backend", backend])

    used = {"auto": "torch"}.get(backend, backend)
    assert f"backend {used}: output (12, 256)" in capsys.readouterr().out


def test_a_backend_that_is_not_there_is_one_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        your_model.main(["--backend", "bogus"])
    assert "backend is 'bogus'; allowed: auto, torch" in capsys.readouterr().err
