"""python -m hive.export on a run, on a resumed one and on its tower/; what a run does with a taken place; uploads."""

from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModel

from hive import checkpoint
from hive.errors import UserError
from hive.export.__main__ import main, run
from hive.export.cli import parse
from hive.export.facts import read_facts
from hive.export.hub import check_push, push
from hive.export.loading import hidden_states, probe_image
from hive.export.place import may_replace
from hive.train.trained import load_run
from tests.support.tiny_run import TINY, last_checkpoint, train

SHORT = [*TINY, "--max-steps", "1", "--dataset.max-text-tokens", "8"]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose stages 1 and 3 were trained one after the other, and whose tower/ is somebody's."""
    out = tmp_path_factory.mktemp("run") / "out"
    (out / "tower").mkdir(parents=True)
    (out / "tower" / "README.md").write_text("my notes")
    assert train([*SHORT, "--stages", "1", "--out", str(out)]) == 0
    assert train(["--resume", str(out), "--stages", "3"]) == 0
    return out


def test_what_lies_in_its_place_costs_no_export(resumed: Path) -> None:
    assert [path.name for path in (resumed / "tower").iterdir()] == ["README.md"]
    assert (resumed / "tower" / "README.md").read_text() == "my notes"
    assert may_replace(resumed / "tower-2")
    assert not (resumed / "tower-3").exists()


def test_a_run_says_at_its_start_that_a_place_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "tower").symlink_to("elsewhere")
    assert train([*SHORT, "--stages", "1", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    warning = said.index(f"{tmp_path / 'tower'} is no export that HIVE wrote and nobody changed since")
    assert warning < said.index("stage 1 trains")
    assert str(tmp_path / "tower-2") in said[warning : said.index("stage 1 trains")]
    assert f"tower       {tmp_path / 'tower-2'}" in said
    assert (tmp_path / "tower").is_symlink()


def test_the_facts_of_a_resumed_run(resumed: Path) -> None:
    facts = read_facts(resumed / "tower-2")
    assert facts is not None
    assert (facts.stages, facts.steps, facts.read, facts.trained_layers) == ((1, 3), 2, (1, 3), 4)
    assert facts.trains_tower
    assert {loss.split: loss.pairs for loss in facts.losses} == {
        "seen_style": 8,
        "unseen_style": 8,
        "unseen_concept": 8,
    }
    assert facts.data_fingerprint == checkpoint.load(last_checkpoint(resumed)).fingerprints["data"]
    assert str(facts.command).startswith("python -m hive.train --stages 1,3 ")
    assert last_checkpoint(resumed).name == "step-00000002"


@pytest.mark.parametrize("source", ["", "tower-2"])
def test_an_export_of_a_run_and_of_its_tower(
    resumed: Path, tmp_path: Path, source: str, capsys: pytest.CaptureFixture
) -> None:
    for target in ("hub", "llava"):
        folder = tmp_path / f"{target}-clip"
        assert main([str(resumed / source), "--to", target, "--out", str(folder), "--device", "cpu"]) == 0
        assert str(folder) in capsys.readouterr().out
        whole = load_run(resumed, torch.device("cpu")).model.tower
        tower = AutoModel.from_pretrained(folder)
        image = probe_image(tower)
        torch.testing.assert_close(
            hidden_states(tower, image)[whole.selected[-1]], hidden_states(whole.model, image)[whole.selected[-1]]
        )
        assert read_facts(folder) == read_facts(resumed / "tower-2")


def test_untrained_layers_are_kept_on_demand(tmp_path: Path) -> None:
    flags = ["--stages", "1", "--vision.selection", "1,2", "--keep-untrained-layers"]
    assert train([*SHORT, *flags, "--out", str(tmp_path)]) == 0
    assert AutoModel.from_pretrained(tmp_path / "tower").config.num_hidden_layers == 4
    assert train(["--resume", str(tmp_path), "--stages", "2", "--no-keep-untrained-layers"]) == 0
    tower = AutoModel.from_pretrained(tmp_path / "tower")
    assert tower.config.num_hidden_layers == 2
    run = load_run(tmp_path, torch.device("cpu"))
    assert run.model.tower.shape.layers == 4
    image = probe_image(tower)
    torch.testing.assert_close(hidden_states(tower, image)[-1], hidden_states(run.model.tower.model, image)[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "--to", "hub"], "nothing is no folder"),
        ([".", "--to", "hub"], "is neither a run nor a tower that this version exported"),
        ([".", "--to", "hub", "--push", "no name"], '--push is "no name", but it must be a name on the hub'),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_said_before_anything_is_written(
    resumed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    try:
        import timm  # noqa: F401
    except Exception:
        assert main([str(resumed), "--to", "timm", "--out", str(tmp_path / "timm")]) == 2
        assert "pip install 'hive-pretraining[timm]'" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


def test_an_upload(resumed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that takes the real client's arguments alone."""
    api = create_autospec(HfApi, instance=True)
    tokens = []

    def make_hub(token: str) -> HfApi:
        tokens.append(token)
        return api

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    folder = tmp_path / "hub"
    command = parse([str(resumed / "tower-2"), "--to", "hub", "--out", str(folder), "--push", "org/tower"])
    assert run(command, make_hub) == 0
    assert tokens == ["hf_secret"]
    api.create_repo.assert_called_once_with("org/tower", private=True, exist_ok=True)
    api.upload_folder.assert_called_once()
    assert api.upload_folder.call_args.kwargs["folder_path"] == folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def test_an_upload_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a token that may write: run `hf auth login`"):
        check_push("org/tower", lambda: None)
    api = create_autospec(HfApi, instance=True)
    api.upload_folder.side_effect = OSError("403 Forbidden")
    with pytest.raises(UserError, match=r"--push org/tower failed \(403 Forbidden\)"):
        push(tmp_path, "org/tower", api)
