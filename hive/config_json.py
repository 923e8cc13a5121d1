"""A run's configuration as JSON and back, and as one flat list of fields: what a run folder keeps of it."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from hive.config import ADDED, FREE, AnyConfig, Mark, RunConfig, check
from hive.errors import UserError


def flatten(config: RunConfig) -> dict[str, object]:
    """The values of all fields by name, such as "vision.density"."""
    flat: dict[str, object] = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            flat[name] = value
    return flat


def fixed_on_resume(config: RunConfig) -> dict[str, object]:
    """`flatten` without the fields that may differ where a run is resumed."""
    free = {name for name, _, marks in _fields(config, "") if FREE in marks}
    return {name: value for name, value in flatten(config).items() if name not in free}


def fingerprinted(config: RunConfig) -> dict[str, object]:
    """`fixed_on_resume` without added fields that have their defaults, which older runs were saved without."""
    unchanged = {name for name, is_default, marks in _fields(config, "") if ADDED in marks and is_default}
    return {name: value for name, value in fixed_on_resume(config).items() if name not in unchanged}


def _fields(part: Any, prefix: str) -> Iterator[tuple[str, bool, tuple[Any, ...]]]:
    """(name as in `flatten`, whether it has its default, marks) of every field."""
    for item in dataclasses.fields(part):
        value = getattr(part, item.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value == item.default, _marks(type(part), item.name)


def fields_marked(kind: type[RunConfig], mark: Mark) -> list[str]:
    """The names of the configuration's own fields, not those of its parts, that have the mark."""
    return [item.name for item in dataclasses.fields(kind) if mark in _marks(kind, item.name)]


def _marks(kind: type, name: str) -> tuple[Any, ...]:
    return getattr(get_type_hints(kind, include_extras=True)[name], "__metadata__", ())


def to_json(config: Any) -> str:
    """The dataclass as indented JSON; `from_json` reads it back."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n"


def from_json(text: str, kind: type[AnyConfig]) -> AnyConfig:
    """The configuration that `to_json` wrote; `UserError` for a field that is missing, unknown or has a bad value."""
    config = _read(kind, json.loads(text), "")
    try:
        check(config)
    except UserError as error:
        raise UserError(f"The saved configuration can't be used: {error}") from None
    return config


def _read(kind: Any, value: Any, name: str) -> Any:
    if type(None) in get_args(kind):
        if value is None:
            return None
        kind = get_args(kind)[0]
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        added = [item for item in dataclasses.fields(kind) if ADDED in _marks(cast(type, kind), item.name)]
        value = {item.name: item.default for item in added} | value
        hints = get_type_hints(kind)
        for problem, names in (("lacks the", hints.keys() - value.keys()), ("has the unknown", value.keys() - hints)):
            if names:
                raise UserError(
                    f"The saved configuration {problem} field {name}{min(names)}: it was written by another command or "
                    "version of HIVE; use that one, or start a new run."
                )
        return kind(**{key: _read(hints[key], item, f"{name}{key}.") for key, item in value.items()})  # type: ignore[operator]
    if not fits(kind, value):
        raise UserError(
            f"The saved configuration has {json.dumps(value):.60} as its {name.removesuffix('.') or 'whole'}, which is "
            "of the wrong type: restore the file, or start a new run."
        )
    return Path(value) if kind is Path else tuple(value) if get_origin(kind) is tuple else value


def fits(kind: Any, value: Any) -> bool:
    """Whether a value that was read from a file is of a field's type."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(type(item) is get_args(kind)[0] for item in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (str if kind is Path else kind)  # bool is no int here
