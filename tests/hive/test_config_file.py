"""--config: a file with some fields, or a whole run's configuration; what is wrong in it is one sentence."""

import dataclasses
import json
from pathlib import Path

import pytest

from hive.config import Config
from hive.config_json import flatten, to_json
from hive.errors import UserError
from hive.recipes import load_recipe
from hive.train.cli import parse
from hive.vlm.cli import parse as parse_vlm

TOML = """
epochs = 2
"lr" = 3e-4
stages = [2, 3]
gate = true
image_root = "photos"
language.weights = "None"
vision.hidden-size = 96
schedule3.clip = 2
[dataset]
max-text-tokens = 40
heldout_pairs = 7
"""
GIVEN = {
    "epochs": 2,
    "lr": 3e-4,
    "stages": (2, 3),
    "gate": True,
    "image_root": Path("photos"),
    "vision.hidden_size": 96,
    "schedule3.clip": 2,
    "dataset.max_text_tokens": 40,
    "dataset.heldout_pairs": 7,
}


def config_of(file: Path, text: str, *flags: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return parse(["--config", str(file), *flags]).config


def test_only_what_the_file_gives_differs_from_the_recipe(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run.toml", TOML)
    assert flatten(config) == flatten(load_recipe("demo")) | GIVEN
    names = {"vision": {"hidden_size": 96}, "schedule3.clip": 2, "dataset": {"max-text-tokens": 40}}
    text = json.dumps({**names, "epochs": 2, "lr": None, "dataset.heldout-pairs": 7})
    config = config_of(tmp_path / "run.json", text)
    given = {"vision.hidden_size", "schedule3.clip", "dataset.max_text_tokens", "dataset.heldout_pairs", "epochs"}
    assert flatten(config) == flatten(load_recipe("demo")) | {name: GIVEN[name] for name in given}


def test_flags_win_over_the_file_and_the_file_over_the_recipe(tmp_path: Path) -> None:
    text = 'recipe = "smollm2-135m"\nepochs = 2\nschedule1.clip = 3'
    config = config_of(tmp_path / "run.toml", text, "--epochs", "5")
    assert config.epochs == 5
    assert config.schedule1 == dataclasses.replace(load_recipe("smollm2-135m").schedule1, clip=3)
    assert config.recipe == "smollm2-135m"
    config = config_of(tmp_path / "run.toml", text, "--recipe", "demo")
    assert config == dataclasses.replace(
        load_recipe("demo"), epochs=2, schedule1=dataclasses.replace(load_recipe("demo").schedule1, clip=3)
    )


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_runs_configuration_makes_a_new_run(as_folder: bool, tmp_path: Path) -> None:
    """All but the place of the run and what it found on its machine."""
    wanted = parse(["--seed", "5", "--vision.density", "0.5", "--batch-size", "8"]).config
    saved = dataclasses.replace(wanted, out=tmp_path, kernel="triton", device="cuda")
    (tmp_path / "config.json").write_text(to_json(saved))
    place = tmp_path if as_folder else tmp_path / "config.json"
    assert parse(["--config", str(place)]).config == wanted
    assert parse(["--config", str(place), "--seed", "6", "--device", "cpu"]).config == dataclasses.replace(
        wanted, seed=6, device="cpu"
    )
    older = json.loads(to_json(saved))
    del older["lr"], older["language"]["family"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert parse(["--config", str(place)]).config == wanted
    with pytest.raises(UserError, match="both give every field"):
        parse(["--config", str(place), "--recipe", "demo"])
    with pytest.raises(UserError, match="--config is for a new run"):
        parse(["--config", str(place), "--resume", str(tmp_path)])


def test_fine_tuning_reads_one_too(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('data2 = "more.json"\nfeature-layer = -2\nlr = 1e-5')
    config = parse_vlm(["--config", str(tmp_path / "run.toml")]).config
    assert (config.data2, config.feature_layer, config.schedule(2).peak_lr) == ("more.json", -2, 1e-5)
    with pytest.raises(UserError, match=r"data2 is no field"):
        parse(["--config", str(tmp_path / "run.toml")])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vision.densty = 1", "vision.densty is no field: do you mean vision.density?"),
        ("[schedule2]\npeak_rl = 1", "schedule2.peak_rl is no field: do you mean schedule2.peak_lr?"),
        ("zzz = 1", "zzz is no field; --help lists them as flags."),
        ("vision = 3", "vision is a table of fields such as vision.weights: write [vision] above them."),
        ("seed.x = 3", "seed.x is no field"),
        ('epochs = "2"', 'epochs is "2", but it must be a number.'),
        ("seed = 1.5", "seed is 1.5, but it must be a whole number."),
        ("seed = true", "seed is true, but it must be a whole number."),
        ("gate = 1", "gate is 1, but it must be true or false."),
        ('stages = "1,2"', 'stages is "1,2", but it must be a list of whole numbers, such as [1, 2].'),
        ("data = 1979-05-27", 'data is "1979-05-27", but it must be a text in quotes.'),
        ('method = "none"', 'method is "none", but it must be one of hive, self-attention.'),
        ("max-steps = 1\nmax_steps = 2", "gives max_steps twice: leave one of them out."),
        ("epochs =", "is no TOML ("),
        ("vision.density = 5", "--vision.density is 5, but it must be above 0 and at most 1."),
        ('kernel = "bogus"', '--kernel is "bogus", but it must be one of auto, '),
        ('recipe = "bogus"', '--recipe is "bogus", but it must be one of demo, '),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        config_of(tmp_path / "run.toml", text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("run.yaml", b"epochs: 2", "must end in .toml or .json, or be the folder of a run."),
        ("run.json", b"[1]", "must be an object with the fields by name"),
        ("run.json", b"{", "is no JSON ("),
        ("run.toml", b"\xff", "is no TOML ("),
        ("absent.toml", None, "can't be read (No such file or directory)"),
        ("", None, "config.json can't be read (No such file or directory)"),
    ],
)
def test_what_is_no_such_file(name: str, content: bytes | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        parse(["--config", str(tmp_path / name)])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
