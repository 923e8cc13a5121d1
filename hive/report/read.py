"""What a report needs of a run folder; nothing here imports torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive.config import Config
from hive.data.ledger import LEDGER
from hive.errors import UserError
from hive.files import METRICS, read_records
from hive.train.cli import load_config

EFFICIENCY, MAPS = "efficiency.json", "maps"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@dataclass(frozen=True)
class Recorded:
    """One run as its folder tells it; what a run hasn't written yet is empty."""

    label: str
    """The folder's name; the path as given where names repeat."""
    folder: Path
    config: Config
    train: list[dict[str, Any]]
    """A record a step."""
    held_out: dict[str, list[dict[str, Any]]]
    """Records by split, those without a readable image left out."""
    efficiency: dict[str, Any]
    maps: dict[str, bytes]
    """PNG files by name without ending, in order."""
    bad: list[dict[str, Any]]
    """Lines of the bad-sample ledger."""


def read_runs(folders: Sequence[Path]) -> list[Recorded]:
    """Reads run folders; `UserError` for what is none, or is given twice."""
    places = [folder.resolve() for folder in folders]
    twice = [folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]
    if twice:
        raise UserError(f"RUN {twice[0]} is given more than once: give each run once.")
    names = [place.name for place in places]
    labels = [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]
    return [_read(folder, label) for folder, label in zip(folders, labels, strict=True)]


def _read(folder: Path, label: str) -> Recorded:
    config = load_config(folder, Config, "RUN")
    records = read_records(folder / METRICS)
    held_out: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record["kind"].startswith("heldout/") and record["right"] is not None:
            held_out.setdefault(record["kind"].removeprefix("heldout/"), []).append(record)
    return Recorded(
        label,
        folder,
        config,
        [record for record in records if record["kind"] == "train"],
        held_out,
        _efficiency(folder / EFFICIENCY),
        _maps(folder / MAPS),
        read_records(folder / LEDGER),
    )


def _efficiency(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}): measure again, or remove it.") from error
    return value if isinstance(value, dict) else {"results": value}


def _maps(folder: Path) -> dict[str, bytes]:
    found = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))}
    broken = [name for name, data in found.items() if not data.startswith(PNG)]
    if broken:
        raise UserError(f"{folder / broken[0]}.png is no PNG image: draw it again, or remove it.")
    return found
