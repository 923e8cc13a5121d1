"""A run that starts from a finished run's model: its first loss, what it records, and that it stands alone then."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hive.checkpoint import load
from hive.config import Config
from hive.data.loader import batches
from hive.files import INJECTION
from hive.model_folder import digest
from hive.run_folder import load_config
from hive.train.__main__ import main
from hive.train.cli import parse
from hive.train.pretraining import open_data
from hive.train.trained import load_run
from tests.support.tiny_run import TINY, last_checkpoint, losses, records, train

CPU = torch.device("cpu")
SHORT = ["--stages", "3", "--max-steps", "2"]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its gates are open, and its language model was trained."""
    out = tmp_path_factory.mktemp("old") / "out"
    flags = ["--gate", "--stages", "2,3", "--max-steps", "3", "--schedule2.peak-lr", "3e-2", "--dataset.no-augment"]
    assert train([*TINY, *flags, "--out", str(out)]) == 0
    return out


def start(old: Path, new: Path, *flags: str) -> int:
    return train(["--from", str(old), *SHORT, "--out", str(new), *flags])


@pytest.fixture(scope="module")
def new(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("new") / "out"
    assert start(old, out, "--seed", "5", "--save-every", "1") == 0
    return out


@torch.no_grad()
def loss_of_first_step(model: torch.nn.Module, config: Config) -> float:
    """By the model given, as the first step of stage 3 computes it: mean over the tokens of all micro-batches."""
    run = load_run(Path(str(config.out)), CPU)
    data = batches(
        open_data(config).pairs, run.tokenizer, run.spec, config.dataset, seed=4 * config.seed + 3, batch_size=8,
        micro_batch_size=4, first_step=0, steps=1, augment=False,
    )  # fmt: skip
    parts = next(data)
    tokens = sum(part.token_count for part in parts)
    total = torch.zeros(())
    for part in parts:
        total += model(part) / tokens
    return total.item()


def test_the_first_loss_is_the_old_models(old: Path, new: Path) -> None:
    config = load_config(new, Config)
    assert losses(new)[0] == loss_of_first_step(load_run(old, CPU).model, config)
    assert losses(new)[0] != losses(old)[-1]
    assert [record["step"] for record in records(new)] == [1, 2]


def test_the_new_run_records_where_it_came_from(old: Path, new: Path) -> None:
    parent = load_run(old, CPU)
    origin = json.loads((new / "config.json").read_text())["origin"]
    assert origin == {"folder": str(old), "step": 6, "weights": digest(parent.model)}
    assert (
        json.loads((new / "start" / "config.json").read_text())["run"]
        == json.loads((old / "model" / "config.json").read_text())["run"]
    )
    before, now = load_config(old, Config), load_config(new, Config)
    assert replace(now, origin=None, seed=0, save_every=before.save_every, max_steps=3, stages=(2, 3), out=None) == (
        replace(before, out=None)
    )


def test_a_run_and_its_model_folder_start_the_same(old: Path, new: Path, tmp_path: Path) -> None:
    """And so does a run of which only the checkpoint is left, as one that was trained before models were exported."""
    unexported = shutil.copytree(old, tmp_path / "old", ignore=shutil.ignore_patterns("model"))
    for number, folder in enumerate((old / "model", unexported)):
        assert start(folder, tmp_path / str(number), "--seed", "5", "--no-export-model") == 0
        assert losses(tmp_path / str(number)) == losses(new)
        assert not (tmp_path / str(number) / "model").exists()


def test_the_new_run_is_resumed_without_the_old_one(old: Path, new: Path, tmp_path: Path) -> None:
    gone = shutil.copytree(old, tmp_path / "old")
    assert start(gone, tmp_path / "new", "--seed", "5", "--save-every", "1") == 0
    shutil.rmtree(gone)
    moved = shutil.move(tmp_path / "new", tmp_path / "moved")
    for kept in ((), ("step-00000001",)):  # stopped before the first checkpoint, and after it
        folder = shutil.copytree(moved, tmp_path / f"resumed-{len(kept)}", ignore=shutil.ignore_patterns("model"))
        for step in ("step-00000001", "step-00000002"):
            if step not in kept:
                shutil.rmtree(folder / "checkpoints" / step)
        assert train(["--resume", str(folder)]) == 0
        ours, theirs = (load(last_checkpoint(run)).tensors for run in (folder, new))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        shutil.rmtree(folder / "model")
        assert digest(load_run(folder, CPU).model) == digest(load_run(new, CPU).model)


def test_a_start_that_was_changed_is_refused(new: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(new, tmp_path / "changed")
    shutil.copy(new / "model" / "model.safetensors", folder / "start" / "model.safetensors")
    assert train(["--resume", str(folder)]) == 2
    assert "start/ folder of the run is not what it began with" in capsys.readouterr().err


def test_the_injection_check_knows_that_the_model_has_learned(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A tiny model's attention is uniform: a warning where it was trained, with advice that can be followed."""
    assert start(old, tmp_path / "new") == 0
    check = json.loads((tmp_path / "new" / INJECTION).read_text())
    assert any(depth["gate"] for depth in check["depths"])
    assert [warning for warning in check["warnings"] if "train the run that --from names for longer" in warning]
    assert not [warning for warning in check["warnings"] if "--vision.weights" in warning]


def test_gates_that_are_open_may_train_the_projector_alone(old: Path) -> None:
    assert parse(["--from", str(old), "--stages", "1", "--stage1", "projector"]).config.stage1 == "projector"


def test_other_data_brings_its_own_place_of_images(old: Path, tmp_path: Path) -> None:
    run = shutil.copytree(old, tmp_path / "run")
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(content | {"data": "a.json", "image_root": "photos"}))
    same = parse(["--from", str(run)]).config
    assert (same.data, same.image_root) == ("a.json", Path("photos"))
    assert same.out is None
    other = parse(["--from", str(run), "--data", "b.json"]).config
    assert (other.data, other.image_root) == ("b.json", None)
    given = ["--from", str(run), "--data", "b.json", "--image-root", "photos"]
    assert parse(given).config.image_root == Path("photos")


REFUSED: Sequence[tuple[str, str]] = (
    ("--from OLD --method self-attention", "--method is self-attention, but --from brings a whole model, where it is"),
    ("--from OLD --no-gate", "--gate is False, but --from brings a whole model"),
    ("--from OLD --vision.layers 6", "--vision.layers is 6"),
    ("--from OLD --vision.density 0.25", "--vision.density is 0.25"),
    ("--from OLD --language.tokenizer DIR", "--language.tokenizer is DIR"),
    ("--from OLD --recipe smollm2-135m", "--recipe is smollm2-135m"),
    ("--from OLD --resume OLD", "--from starts a new run and --resume continues one"),
    ("--from OLD --out OLD", "already holds a run"),
    ("--from OLD/tower", "--from OLD/tower holds a clip_vision_model model, and is no run folder"),
    ("--from OLD/none", "--from OLD/none is no run folder"),
    ("--resume OLD/model", "OLD/model is an exported model"),
)


@pytest.mark.parametrize(("flags", "sentence"), REFUSED, ids=[flags for flags, _ in REFUSED])
def test_refused(flags: str, sentence: str, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = flags.replace("OLD", str(old)).split()
    assert train([*words, *([] if "--out" in words else ["--out", str(tmp_path / "new")])]) == 2
    error = capsys.readouterr().err
    assert sentence.replace("OLD", str(old)) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_run_without_a_trained_model(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = shutil.copytree(old, tmp_path / "run", ignore=shutil.ignore_patterns("model", "checkpoints"))
    assert start(run, tmp_path / "new") == 2
    assert "has no whole checkpoint yet" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_dry_run(old: Path, new: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--from", str(old), "--dry-run", *SHORT]) == 0
    assert "Nothing is missing." in capsys.readouterr().out
    assert main(["--resume", str(new), "--dry-run"]) == 0
    assert "Nothing is missing." in capsys.readouterr().out


def test_a_runs_model_is_what_was_trained_for_the_most_steps(old: Path, tmp_path: Path) -> None:
    """A run that goes on after its export, and is stopped, has a newer checkpoint than model."""
    run = shutil.copytree(old, tmp_path / "run")
    content = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps(content | {"step": 5}))
    saved = load_file(run / "model" / "model.safetensors")
    save_file({name: value + 1 for name, value in saved.items()}, run / "model" / "model.safetensors")
    assert digest(load_run(run, CPU).model) == digest(load_run(old, CPU).model)
    (last_checkpoint(run) / "tensors.safetensors").write_bytes(b"damaged")
    assert load_run(run, CPU).step == 5
