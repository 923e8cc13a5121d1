"""The learning-rate range test: what it suggests, when it ends, and that it touches no run."""

import json
from itertools import pairwise
from math import log10
from pathlib import Path

import pytest

from hive.errors import UserError
from hive.train.cli import parse
from hive.train.lr_range import RangeTest, diverges, plot
from hive.vlm.cli import parse as parse_vlm
from tests.support.tiny_run import TINY, losses, train

RATES = [10 ** (place / 10 - 6) for place in range(61)]


def falling_at(rate: float, rising_from: float) -> RangeTest:
    """A loss that falls from 7 to 5 around a rate, and rises without end above another."""
    curve = [5 + 2 / (1 + (x / rate) ** 2) + 10 * max(0.0, log10(x / rising_from)) for x in RATES]
    return RangeTest(3, RATES, curve)


@pytest.mark.parametrize("rate", [1e-4, 1e-3])
def test_the_rate_of_the_steepest_fall_is_suggested(rate: float, tmp_path: Path) -> None:
    result = falling_at(rate, 1e-1)
    assert result.suggested == pytest.approx(rate, rel=0.3)  # places are 26 % apart
    assert rate < result.rates[result.lowest] <= 2e-1
    plot(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_loss_that_never_falls_suggests_nothing(tmp_path: Path) -> None:
    flat = RangeTest(1, RATES, [7.0] * len(RATES))
    assert flat.suggested is None
    plot(flat, tmp_path / "picture.png")


def test_a_loss_that_rises_for_long_enough_diverges() -> None:
    assert not diverges([7.0])
    assert not diverges([7, 6, 5, 15, 5, 5, 5, 5])  # a single step
    assert not diverges([7.0] * 20 + [10.0] * 7)
    assert diverges([7.0] * 20 + [11.0] * 7)


def test_the_command_leaves_a_folder_that_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train([*TINY, "--lr-range-test", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()
    folder = Path("runs/demo-lr-range-1")
    assert sorted(path.name for path in folder.iterdir()) == ["lr_range.json", "lr_range.png"]
    assert shown[-1] == f"picture     {folder / 'lr_range.png'}"
    record = json.loads((folder / "lr_range.json").read_text())
    assert record["stage"] == 1
    rates = [point["lr"] for point in record["points"]]
    assert rates[0] == pytest.approx(1e-6)
    assert all(later / earlier == pytest.approx(10 ** (6 / 99)) for earlier, later in pairwise(rates))
    assert shown[-2].split()[:2] == ["1", str(len(rates))]
    assert train([*TINY, "--stages", "1", "--out", str(tmp_path / "run")]) == 0
    assert record["points"][0]["loss"] == pytest.approx(losses(tmp_path / "run")[0], abs=1e-6)
    assert train(["--resume", str(tmp_path / "run"), "--lr-range-test", "1"]) == 2
    assert "--lr-range-test and --resume exclude each other" in capsys.readouterr().err


def test_a_stage_that_is_not_there() -> None:
    with pytest.raises(UserError, match="--lr-range-test is 4, but it must be a stage: 1, 2, 3"):
        parse(["--lr-range-test", "4"])
    with pytest.raises(UserError, match="--lr-range-test is 3, but it must be a stage: 1, 2"):
        parse_vlm(["--lr-range", "3"])
    assert parse_vlm(["--lr-range", "2"]).config.stages == (2,)
