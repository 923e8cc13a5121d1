"""Reads what a report needs from a run folder, without importing torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive.config import Config, RunConfig
from hive.data.ledger import LEDGER
from hive.errors import UserError
from hive.files import INJECTION, METRICS, read_records
from hive.run_folder import CONFIG_FILE, load_config
from hive.vlm.config import VLMConfig

EFFICIENCY, MAPS = "efficiency.json", "maps"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
STEP = ("step", "stage", "loss", "images_per_second", "tokens_per_second", "tflops", "data_wait", "peak_memory_gb")
CHECK, DEPTH = ("stage", "text_loss", "loss"), ("decoder_layer", "entropy", "spread", "update", "gate", "image_share")
HELD_OUT = ("step", "stage", "right", "wrong", "pairs")


@dataclass(frozen=True)
class Recorded:
    """What one run's folder records; parts that the run has not written yet are empty."""

    label: str
    """The folder's name; the path as given where names repeat."""
    folder: Path
    config: RunConfig
    train: list[dict[str, Any]]
    """One record for each step."""
    held_out: dict[str, list[dict[str, Any]]]
    """Records by split, without those of which no image could be read."""
    injection: list[dict[str, float | None]]
    """One row for each stage and depth of the injection check."""
    warnings: list[str]
    """Of the injection check."""
    efficiency: dict[str, Any]
    maps: dict[str, bytes]
    """PNG files by name without ending, in order."""
    bad: list[dict[str, Any]]
    """Lines of the bad-sample ledger."""


def read_runs(folders: Sequence[Path]) -> list[Recorded]:
    """Returns the records of run folders; raises `UserError` for a folder that is not a run's, or is given twice."""
    places = [folder.resolve() for folder in folders]
    twice = [folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]
    if twice:
        raise UserError(f"RUN {twice[0]} is given more than once: give each run once.")
    names = [place.name for place in places]
    labels = [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]
    return [_read_run(folder, label) for folder, label in zip(folders, labels, strict=True)]


def _read_run(folder: Path, label: str) -> Recorded:
    train, held_out = _read_metrics(folder / METRICS)
    return Recorded(
        label,
        folder,
        _read_config(folder),
        train,
        held_out,
        *_read_injection(folder / INJECTION),
        _read_efficiency(folder / EFFICIENCY),
        _read_maps(folder / MAPS),
        _read_checked(folder / LEDGER),
    )


def _read_config(folder: Path) -> RunConfig:
    """Returns the configuration of pre-training, or of fine-tuning, which is the only one with a feature layer."""
    path = folder / CONFIG_FILE
    if path.is_file() and b'"feature_layer"' in path.read_bytes():
        return load_config(folder, VLMConfig, "RUN")
    return load_config(folder, Config, "RUN")


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Returns one record for each step, and the held-out records by split."""
    train: list[dict[str, Any]] = []
    held_out: dict[str, list[dict[str, Any]]] = {}
    for record in _read_checked(path):
        kind = str(record.get("kind"))
        if kind == "train":
            train.append(_check_numbers(record, STEP, path))
        elif kind.startswith("heldout/") and record.get("right") is not None:
            held_out.setdefault(kind.removeprefix("heldout/"), []).append(_check_numbers(record, HELD_OUT, path))
    return train, held_out


def _read_injection(path: Path) -> tuple[list[dict[str, float | None]], list[str]]:
    """Returns the numbers of each stage and depth, and all warnings."""
    checks = _read_checked(path)
    try:
        rows = [
            {name: check[name] for name in CHECK} | {name: depth[name] for name in DEPTH}
            for check in checks
            for depth in check["depths"]
        ]
        warnings = [f"stage {check['stage']}: {warning}" for check in checks for warning in check["warnings"]]
    except (KeyError, TypeError) as error:
        raise _damaged(path) from error
    if not all(value is None or isinstance(value, int | float) for row in rows for value in row.values()):
        raise _damaged(path)
    return rows, warnings


def _read_checked(path: Path) -> list[dict[str, Any]]:
    records = read_records(path)
    if not all(isinstance(record, dict) for record in records):
        raise _damaged(path)
    return records


def _check_numbers(record: dict[str, Any], names: Sequence[str], path: Path) -> dict[str, Any]:
    if not all(isinstance(record.get(name), int | float) for name in names):
        raise _damaged(path)
    return record


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} has a line that no run of HIVE wrote: restore the file, or give another run.")


def _read_efficiency(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}): measure again, or remove it.") from error
    return value if isinstance(value, dict) else {"results": value}


def _read_maps(folder: Path) -> dict[str, bytes]:
    maps = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))}
    broken = [name for name, data in maps.items() if not data.startswith(PNG) or len(data) < len(PNG) + 8]
    if broken:
        raise UserError(f"{folder / broken[0]}.png is no PNG image: draw it again, or remove it.")
    return maps
