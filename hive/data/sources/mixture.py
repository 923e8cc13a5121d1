"""A mixture: a TOML or YAML file that lists sources, each with its weight."""

import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hive.config import DataConfig
from hive.data.source import CAPTION_FIELDS, CONVERSATION_FIELDS, Part, Reader, Record, Source, field
from hive.errors import UserError, first_line

SUFFIXES = (".toml", ".yaml", ".yml")
_KEYS = ("data", "image_root", "weight", "image_column", "caption_column", "split", "subset")
_MAGIC = re.compile(r"[*?\[{]")
Opener = Callable[[str, Path | None, DataConfig, str], Source]
IsHubName = Callable[[str, Path], bool]


@dataclass(frozen=True)
class _Entry:
    """One [[sources]] of a mixture, its paths from the folder of the file."""

    name: str
    """`data` as it is written."""
    data: str
    image_root: Path | None
    weight: float
    options: Mapping[str, Any]
    """Fields of `DataConfig`."""
    folder: str
    """What places begin with."""
    image_folder: str
    """What names of images begin with: the same image has the same name in two sources."""


@dataclass(frozen=True)
class MixtureReader:
    """Reads each row from its source."""

    readers: list[Reader]
    ends: np.ndarray
    """int64 [sources]: rows up to the end of each."""

    def __call__(self, row: int) -> bytes:
        number = int(np.searchsorted(self.ends, row, side="right"))
        return self.readers[number](row - (int(self.ends[number - 1]) if number else 0))


def open_mixture(path: Path, options: DataConfig, open_source: Opener, is_hub_name: IsHubName) -> Source:
    """The records of all sources of a mixture, one source after the other.

    Paths are relative to the file. A source's `weight`, 1 by default, is how often it is passed over in an epoch.
    Raises `UserError` for a file that says something else, and for mixtures that lead back to themselves.
    """
    for flag, value in (("image", options.image_column), ("caption", options.caption_column)):
        if value is not None:
            raise UserError(
                f"--dataset.{flag}-column is {value}, but {path} is a mixture: write {flag}_column at its sources."
            )
    _check_circle(path, (), is_hub_name)
    entries = _read(path, is_hub_name)
    opened = [
        open_source(entry.data, entry.image_root, replace(options, **entry.options), f"{path}: data")
        for entry in entries
    ]
    parts = tuple(
        part
        for entry, source in zip(entries, opened, strict=True)
        for part in (
            [Part(f"{entry.name}: {inner.name}", entry.weight * inner.weight, inner.size) for inner in source.parts]
            or [Part(entry.name, entry.weight, source.count)]
        )
    )
    ends = list(accumulate(source.count for source in opened))
    reader = MixtureReader([source.reader for source in opened], np.array(ends, dtype=np.int64))
    return Source(_records(entries, opened), ends[-1], reader, parts)


def _records(entries: Sequence[_Entry], opened: Sequence[Source]) -> Iterator[Record]:
    for entry, source in zip(entries, opened, strict=True):
        column = entry.options.get("caption_column")
        for record in source.records:
            yield record._replace(
                place=_join(entry.folder, record.place),
                image=None if record.image is None else _join(entry.image_folder, record.image),
                fields=record.fields if column is None else _rename(record.fields, column),
            )


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _rename(fields: Mapping[str, object], column: str) -> dict[str, object]:
    """The fields with the named one where captions, or conversations, are looked for."""
    usual = (*CAPTION_FIELDS, *CONVERSATION_FIELDS)
    value = field(fields, column)
    is_conversation = isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value)
    name = CONVERSATION_FIELDS[0] if is_conversation else CAPTION_FIELDS[0]
    others = {key: other for key, other in fields.items() if key not in usual}
    return others if value is None else others | {name: value}


def _check_circle(path: Path, above: tuple[Path, ...], is_hub_name: IsHubName) -> None:
    real = path.resolve()
    if real in above:
        raise UserError(f"The mixture {path} leads back to itself: leave it out of its own sources.")
    for entry in _read(path, is_hub_name):
        inner = Path(entry.data)
        if inner.suffix.lower() in SUFFIXES and inner.is_file():
            _check_circle(inner, (*above, real), is_hub_name)


def _read(path: Path, is_hub_name: IsHubName) -> list[_Entry]:
    """The sources of a mixture's file; `UserError` for the first one that says something else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        content: Any = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The mixture {path} can't be read ({reason:.200}): repair it.") from None
    except OSError as error:
        raise UserError(f"The mixture {path} can't be read ({first_line(error)}): give a readable file.") from None
    listed = content.get("sources") if isinstance(content, dict) and len(content) == 1 else None
    if not isinstance(listed, list) or not listed or not all(isinstance(entry, dict) for entry in listed):
        form = "[[sources]] tables" if path.suffix.lower() == ".toml" else "one list named sources"
        raise UserError(
            f"The mixture {path} must hold {form}, each with data and, if it isn't 1, weight; nothing else."
        )
    return [_entry(path, number, entry, is_hub_name) for number, entry in enumerate(listed, start=1)]


def _entry(path: Path, number: int, entry: Mapping[str, Any], is_hub_name: IsHubName) -> _Entry:
    what = f"Source {number} of the mixture {path}"
    if (unknown := next((key for key in entry if key not in _KEYS), None)) is not None:
        raise UserError(f'{what} has the key "{unknown}", which is none of {", ".join(_KEYS)}: correct or remove it.')
    for key in _KEYS:
        if key != "weight" and key in entry and not (isinstance(entry[key], str) and entry[key].strip()):
            raise UserError(f"{what} has the {key} {entry[key]!r:.80}, but it is a text: put it in quotes.")
    if "data" not in entry:
        raise UserError(f"{what} has no data: name its file, as --data would.")
    weight = entry.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise UserError(
            f"{what} has the weight {weight!r:.80}, but it is a number above 0: passes over it in an epoch."
        )
    data, root = str(entry["data"]), entry.get("image_root")
    options = {key: entry[key] for key in ("image_column", "caption_column", "split", "subset") if key in entry}
    folder = _folder(path.parent, data, is_hub_name)
    return _Entry(
        name=data,
        data="::".join(_place(path.parent, part, is_hub_name) for part in data.split("::")),
        image_root=None if root is None else Path(_place(path.parent, root, is_hub_name)),
        weight=float(weight),
        options=options,
        folder=folder,
        image_folder=folder if root is None else os.path.normpath(root),
    )


def _place(folder: Path, data: str, is_hub_name: IsHubName) -> str:
    """What a mixture names, from its folder; the embedded data and a data set on the hub stay as they are."""
    if data == "embedded" or is_hub_name(data, folder):
        return data
    return os.path.join(folder, os.path.expanduser(data))


def _folder(folder: Path, data: str, is_hub_name: IsHubName) -> str:
    """The folder that all files are in, as it is written: what stands before the first pattern."""
    if data == "embedded" or is_hub_name(data, folder):
        return data
    folders = []
    for part in data.split("::"):
        fixed = _MAGIC.split(part)[0]
        is_folder = fixed == part and (folder / os.path.expanduser(part)).is_dir()
        folders.append(os.path.normpath(part if is_folder else os.path.dirname(fixed) or "."))
    try:
        common = os.path.commonpath(folders)
    except ValueError:  # absolute ones and others
        common = ""
    return "" if common == "." else common
