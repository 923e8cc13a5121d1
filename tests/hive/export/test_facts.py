"""What an export says of its run: the command that repeats it, the commit, the model card, the metadata."""

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image, ImageOps
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hive.config import Config, LanguageConfig
from hive.config_json import to_json
from hive.export.card import card, transformers_form
from hive.export.facts import read_facts
from hive.export.origin import commit
from hive.export.place import read_metadata
from hive.export.same_run import command_of
from hive.export.tower import export_tower, trained_form
from hive.model.families import image_spec
from hive.model.families.tower import processor
from hive.recipes import RECIPES, load_recipe
from hive.train.cli import parse
from tests.support.facts import made_up
from tests.support.image_modes import levels_apart, see_through, waves
from tests.support.tiny_towers import tiny_tower

FLAGS = {
    "the default": "",
    "values of every type": "--seed 7 --no-gate --vision.selection 3,7 --vision.density 0.5 --epochs 0.5 --stages 2,3 "
    "--dataset.augment --schedule3.peak-lr 0.0002 --data pairs.json --image-root photos --max-steps 4",
    "another recipe": "--recipe siglip-l-384-mobilellm-350m --dataset.no-augment --batch-size 64 "
    "--keep-untrained-layers",
    "words that a shell would take apart": "--data 'my pairs.json' --image-root 'photos of $HOME'",
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
def test_the_command_gives_the_configuration_back(flags: str) -> None:
    config = parse(shlex.split(flags)).config
    # As a run resolves it.
    resolved = replace(config, device="cpu", kernel="torch", out=Path("runs/demo-hive-1"))
    command = command_of(resolved, config.stages)
    assert command is not None
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "hive.train"]
    assert parse(words[3:]).config == config


def test_the_command_of_a_run_that_started_from_another(tmp_path: Path) -> None:
    """Its flags differ from that run's, not from the recipe's."""
    earlier = parse(shlex.split("--seed 7 --vision.density 0.5 --data pairs.json --image-root photos")).config
    (tmp_path / "config.json").write_text(to_json(earlier))
    flags = ["--from", str(tmp_path), "--stages", "3", "--data", "more.json", "--lr", "1e-05"]
    config = parse(flags).config
    command = command_of(config, (3,), earlier)
    assert command is not None
    assert shlex.split(command)[3:] == [
        "--from", tmp_path.name, "--stages", "3", "--data", "more.json", "--lr", "1e-05"
    ]  # fmt: skip
    assert command_of(config, (3,)) is None


def test_the_command_is_as_short_as_can_be() -> None:
    assert {name: command_of(load_recipe(name), (1, 2, 3)) for name in RECIPES} == {
        name: "python -m hive.train" + ("" if name == "demo" else f" --recipe {name}") for name in RECIPES
    }
    assert command_of(replace(Config(), recipe="claim-gpu"), (1,)) is None


def test_shapes_that_weights_tell_are_no_flags() -> None:
    config = replace(load_recipe("demo"), language=LanguageConfig(weights="org/model", hidden_size=960, kv_heads=5))
    command = command_of(config, (1, 2, 3))
    assert command == "python -m hive.train --language.weights org/model"


def test_a_command_names_nobodys_home() -> None:
    config = replace(Config(), data="/home/me/pairs.json", image_root=Path("/home/me/photos"))
    assert "/home" not in str(command_of(config, (1, 2, 3)))


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def test_a_commit_is_said_only_where_it_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "hive"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    assert commit(package) is None
    git(tmp_path, "init")
    assert commit(package) is None  # in a checkout that does not track it, as an environment's site-packages
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "First")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(package) == head
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "output").touch()
    assert commit(package) == head
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))  # as in a hook
    assert commit(package) == head
    (package / "__init__.py").write_text("x = 2\n")
    assert commit(package) == f"{head} with uncommitted changes"
    monkeypatch.delenv("GIT_DIR")
    git(tmp_path, "checkout", "hive/__init__.py")
    (package / "new.py").touch()
    assert commit(package) == f"{head} with uncommitted changes"
    monkeypatch.setenv("PATH", str(tmp_path))  # without git
    assert commit(package) is None


def test_the_card_and_the_metadata(tmp_path: Path) -> None:
    facts = made_up(tower_source="org/vit-large", data="org/pairs", commit="c0ffee with uncommitted changes")
    model = trained_form(tiny_tower("clip"), facts)
    export_tower(model, tmp_path / "tower", image_spec(model), facts)
    assert read_facts(tmp_path / "tower") == facts
    assert read_metadata(tmp_path / "tower")["format"] == "pt"

    written = ModelCard.load(tmp_path / "tower" / "README.md")
    header = written.data.to_dict()
    assert header == {
        "license": "unknown",
        "library_name": "transformers",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["hive", "vision", "clip"],
        "base_model": ["org/vit-large"],
        "datasets": ["org/pairs"],
    }
    for words in (
        "| seed | 3 |", "python -m hive.train --seed 3", "c0ffee with uncommitted changes", "ab" * 32, "org/vit-large",
        "| seen style | 112 | 1.250 | 2.500 |", "hidden states 1, 2", "The one above it was cut", "2 layers, 16 wide",
    ):  # fmt: skip
        assert words in written.text, words


def test_the_card_says_what_was_not_trained() -> None:
    model = tiny_tower("clip")
    kept = made_up(keeps_untrained=True)
    assert "layers 3 to 3 are as they were" in card(kept, model, transformers_form(model, kept))
    facts = made_up(stages=(1, 2), trains_tower=False, data="pairs.json", losses=())
    text = card(facts, model, transformers_form(model, facts))
    assert "**none trains the tower**" in text
    assert "No held-out loss was recorded" in text
    assert "datasets:" not in text
    assert "base_model:" not in text
    assert "not run from a git checkout" in text


def test_weights_of_others_have_no_facts(tmp_path: Path) -> None:
    tiny_tower("clip").save_pretrained(tmp_path)
    assert read_facts(tmp_path) is None
    assert read_facts(tmp_path / "nothing") is None


@pytest.mark.parametrize("name", ["rotated", "16 bits", "transparent"])
def test_the_lines_in_the_card_prepare_what_a_processor_does_not(tmp_path: Path, name: str) -> None:
    """2.01 levels as for the other modes; and 2 more for the rotated one, which training turns after resizing."""
    model, path = tiny_tower("clip"), tmp_path / "image.png"
    spec = image_spec(model)
    if name == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        waves((48, 48)).save(path, exif=exif)
    elif name == "16 bits":
        grey = np.asarray(waves((48, 48)).convert("L")).astype(np.uint16)
        Image.fromarray(grey * 256 + 128).save(path)
    else:
        see_through((48, 48)).save(path)
    data = path.read_bytes()
    prepare = CLIPImageProcessorPil(**processor(spec))
    plain = Image.open(path)
    assert levels_apart(prepare, data, spec, plain.convert("RGB") if name == "transparent" else plain) > 50
    form = transformers_form(model, made_up())
    for reads_processor in (True, False) if name != "transparent" else (False,):
        text = card(made_up(), model, replace(form, reads_processor=reads_processor))
        lines = re.findall(r"^  (image = .*)$", text, re.M)
        assert len(lines) == (2 if reads_processor else 3)
        variables: dict[str, Any] = {"Image": Image, "ImageOps": ImageOps, "path": path}
        exec("\n".join(lines), variables)
        assert levels_apart(prepare, data, spec, variables["image"]) < (4.01 if name == "rotated" else 2.01)
