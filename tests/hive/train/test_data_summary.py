"""A run says at its start what it is about to read."""

import json
from pathlib import Path

import pytest
import torch

from hive.distributed import World
from hive.train.data_summary import summarise_data
from hive.vlm.cli import parse
from hive.vlm.fine_tuning import fine_tuning
from tests.support.pairs_on_the_spot import encoded
from tests.support.tiny_chats import make_set, save_tower
from tests.support.tiny_run import TINY, train


def test_captions_that_the_demo_would_cut_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its 32 tokens are meant for emoji."""
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(encoded(number, "PNG", (40, 30)))
    words = "the small house near the big tree has a red door and a blue roof"
    records = [{"image": f"{number}.png", "caption": f"{words} and {words} {number}"} for number in range(40)]
    (tmp_path / "pairs.json").write_text(json.dumps(records))
    data = ["--data", str(tmp_path / "pairs.json"), "--stages", "1", "--max-steps", "1"]
    assert train([*TINY, *data, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    before, _, _ = printed.partition("stage 1 trains")
    assert "all 40x30 pixels, 0 % smaller than the tower's 16x16; 36 PNG RGB" in before
    assert "5 steps of 8 pairs; 36 to train on, 4 held out" in before
    assert "warning: 36 of 36 captions are cut at --dataset.max-text-tokens 32; 95 % are at most " in before


def test_each_set_of_fine_tuning_has_its_lines(tmp_path: Path) -> None:
    first, second = make_set(tmp_path / "first"), make_set(tmp_path / "second", images=6, text_only=30)
    weights = save_tower(tmp_path / "tower")
    shape = "--language.hidden-size 24 --language.heads 2 --language.mlp-size 40 --language.layers 2 --device cpu"
    flags = [*shape.split(), "--vision.weights", str(weights), "--data", str(first), "--out", str(tmp_path / "out")]
    world = World(0, 1, torch.device("cpu"))

    def lines(*others: str) -> list[str]:
        return summarise_data(fine_tuning(parse([*flags, *others]).config, False, world)).splitlines()

    shared, apart = lines(), lines("--data2", str(second))
    assert [line[:14].strip() for line in shared] == (labels := ["conversations", "", "images", "epoch"])
    assert "1 step of 64 conversations in stage 1; 1 step of 32 conversations in stage 2; 36 to train on" in shared[3]
    assert [line[:14].strip() for line in apart] == 2 * labels
    assert "1 step of 32 conversations; 33 to train on, 3 held out" in apart[7]
