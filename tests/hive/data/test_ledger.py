"""The ledger of a run that was killed while it wrote, and whose last word counts."""

import json
from pathlib import Path

import pytest

from hive.data.ledger import LEDGER, Ledger
from hive.errors import UserError


def files(folder: Path) -> list[str]:
    return [json.loads(line)["file"] for line in (folder / LEDGER).read_text().splitlines()]


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    Ledger(tmp_path, 0.5).count(3, ((0, "a.png", "cut off"), (1, "b.png", "cut off")))
    text = (tmp_path / LEDGER).read_text()
    for end in range(text.index("b.png"), len(text)):
        (tmp_path / LEDGER).write_text(text[:end])
        Ledger(tmp_path, 0.5).count(3, ((0, "a.png", "cut off"), (2, "c.png", "cut off")))
        assert files(tmp_path) == ["a.png", "c.png"]


def test_a_process_that_does_not_write_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 0.0, seen=10, bad=0, writes=False)
    with pytest.raises(UserError, match="1 of the 13 samples"):
        ledger.count(2, ((0, "a.png", "cut off"),))
    assert not list(tmp_path.iterdir())
