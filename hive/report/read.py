"""What a report needs of a run folder; nothing here imports torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive.config import Config, RunConfig
from hive.data.ledger import LEDGER
from hive.errors import UserError
from hive.files import METRICS, read_records
from hive.run_folder import CONFIG_FILE, load_config
from hive.vlm.config import VLMConfig

EFFICIENCY, MAPS = "efficiency.json", "maps"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
STEP = ("step", "stage", "loss", "images_per_second", "tokens_per_second", "tflops", "data_wait", "peak_memory_gb")
HELD_OUT = ("step", "stage", "right", "wrong", "pairs")


@dataclass(frozen=True)
class Recorded:
    """One run as its folder tells it; what a run hasn't written yet is empty."""

    label: str
    """The folder's name; the path as given where names repeat."""
    folder: Path
    config: RunConfig
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
    train, held_out = _metrics(folder / METRICS)
    return Recorded(
        label,
        folder,
        _config(folder),
        train,
        held_out,
        _efficiency(folder / EFFICIENCY),
        _maps(folder / MAPS),
        _records(folder / LEDGER),
    )


def _config(folder: Path) -> RunConfig:
    """Of pre-training, or of vision-language fine-tuning, whose configuration alone has a feature layer."""
    path = folder / CONFIG_FILE
    if path.is_file() and b'"feature_layer"' in path.read_bytes():
        return load_config(folder, VLMConfig, "RUN")
    return load_config(folder, Config, "RUN")


def _metrics(path: Path) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """A record a step, and the held-out records by split."""
    train: list[dict[str, Any]] = []
    held_out: dict[str, list[dict[str, Any]]] = {}
    for record in _records(path):
        kind = str(record.get("kind"))
        if kind == "train":
            train.append(_with_numbers(record, STEP, path))
        elif kind.startswith("heldout/") and record.get("right") is not None:
            held_out.setdefault(kind.removeprefix("heldout/"), []).append(_with_numbers(record, HELD_OUT, path))
    return train, held_out


def _records(path: Path) -> list[dict[str, Any]]:
    records = read_records(path)
    if not all(isinstance(record, dict) for record in records):
        raise _damaged(path)
    return records


def _with_numbers(record: dict[str, Any], names: Sequence[str], path: Path) -> dict[str, Any]:
    if not all(isinstance(record.get(name), int | float) for name in names):
        raise _damaged(path)
    return record


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} has a line that no run of HIVE wrote: restore the file, or give another run.")


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
    broken = [name for name, data in found.items() if not data.startswith(PNG) or len(data) < len(PNG) + 8]
    if broken:
        raise UserError(f"{folder / broken[0]}.png is no PNG image: draw it again, or remove it.")
    return found
