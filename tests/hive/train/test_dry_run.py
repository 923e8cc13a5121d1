"""The dry run's steps, memory and list of what is missing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hive.config import Config
from hive.cost.paper import CC3M_PAIRS
from hive.recipes import load_recipe
from hive.train import dry_run
from hive.train.outline import find_inputs, outline
from hive.train.pretraining import open_data


def report(config: Config) -> str:
    return dry_run.report(outline(config))


def rows(text: str) -> dict[int, list[str]]:
    return {int(line[0]): line.split() for line in text.splitlines() if line[:1] in ("1", "2", "3")}


@pytest.mark.parametrize("recipe", ["clip-l-336-mobilellm-350m", "siglip-l-384-mobilellm-350m"])
def test_the_papers_steps_on_a_24_gb_card(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the data is at a relative path
    text = report(load_recipe(recipe))
    assert f"{CC3M_PAIRS:,} pairs with 16 text tokens each are assumed" in text
    assert [row[3] for row in rows(text).values()] == ["2,326", "4,652", "581"]
    assert all(float(row[row.index("GB") - 1]) <= 23 for row in rows(text).values())


@pytest.fixture
def own_data(tmp_path: Path) -> Config:
    for index in range(40):
        Image.new("RGB", (20, 20), (index * 6, 0, 0)).save(tmp_path / f"{index}.png")
    pairs = [{"image": f"{index}.png", "caption": f"shade number {index}"} for index in range(40)]
    (tmp_path / "data.json").write_text(json.dumps(pairs))
    demo = load_recipe("demo")
    return replace(demo, data=str(tmp_path / "data.json"), schedule1=replace(demo.schedule1, batch_size=4), stages=(1,))


def test_an_epoch_is_as_long_as_the_whole_set(own_data: Config) -> None:
    train, heldout, epoch_pairs = open_data(own_data)
    assert (len(train), len(heldout["held_out"]), epoch_pairs) == (36, 4, 40)
    assert rows(report(own_data))[1][3] == "10"


def test_a_missing_tokenizer_is_not_missing_data(own_data: Config) -> None:
    text = report(replace(own_data, language=replace(own_data.language, tokenizer="/nowhere/tokenizer")))
    assert "40 pairs; without their tokenizer 16 text tokens each are assumed" in text
    assert "missing: The tokenizer /nowhere/tokenizer is not a folder" in text
    assert "can't be read" not in text
    assert "Nothing is missing" not in text


def test_missing_data_is_not_a_missing_tokenizer(own_data: Config) -> None:
    found = find_inputs(replace(own_data, data="/nowhere/data.json"))
    assert found.tokenizer is not None
    assert [sentence[:25] for sentence in found.missing] == ["--data /nowhere/data.json"]
    assert not find_inputs(own_data).missing
