"""Reads --config: a TOML or JSON file with the fields that differ from the recipe, or another run's configuration."""

import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hive.config import ADDED, FOUND, AnyConfig
from hive.config_json import fields_marked, fits, from_json
from hive.errors import UserError
from hive.flags import nearest
from hive.run_folder import CONFIG_FILE

PARSERS: Mapping[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": json.loads}


def read_config_file(
    path: Path, recipe: str | None, load_recipe: Callable[[str], AnyConfig], kind: type[AnyConfig]
) -> AnyConfig:
    """The recipe's configuration with the file's fields in place of its own.

    The recipe is `recipe`, else the file's, else the default. A file that a run wrote has every field, so that no
    recipe counts; what that run found on its machine (`FOUND`) is left out. Raises `UserError` for a file that can't be
    read, a name that is no field, and a value of the wrong type.
    """
    file = path / CONFIG_FILE if path.is_dir() else path
    content = _parse(file)
    if _is_of_a_run(content, kind):
        if recipe is not None:
            raise UserError(f"--recipe {recipe} and --config {path} both give every field: leave one out.")
        try:
            config = from_json(json.dumps(content, default=str), kind)
        except UserError as error:
            raise UserError(f"--config {path}: {error}") from None
        return dataclasses.replace(config, **{name: getattr(kind, name) for name in fields_marked(kind, FOUND)})
    values: dict[str, Any] = {}
    _flatten(content, "", kind, path, values)
    named = values.pop("recipe", kind.recipe)
    return _replace(load_recipe(recipe or named), values)


def _parse(file: Path) -> Mapping[str, Any]:
    parse = PARSERS.get(file.suffix.lower())
    if parse is None:
        raise UserError(f"--config {file} must end in {' or '.join(PARSERS)}, or be the folder of a run.")
    try:
        content = parse(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"--config {file} can't be read ({error.strerror}): give a TOML or JSON file, or the folder of a run."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--config {file} is no {file.suffix[1:].upper()} ({error}): mend it there.") from None
    if not isinstance(content, dict):
        raise UserError(f'--config {file} must be an object with the fields by name, such as {{"epochs": 2}}.')
    return content


def _is_of_a_run(content: Mapping[str, Any], kind: type[AnyConfig]) -> bool:
    """Whether all fields are there, as in what a run writes; runs of before a field was `ADDED` lack that one."""
    wanted = {item.name for item in dataclasses.fields(kind)} - set(fields_marked(kind, ADDED))
    return wanted <= content.keys()


def _flatten(table: Mapping[str, Any], prefix: str, kind: type[AnyConfig], path: Path, values: dict[str, Any]) -> None:
    """Adds the table's values to `values`, by field as in `hive.config_json.flatten`, checked and converted."""
    hints = field_types(kind)
    for key, value in table.items():
        name = f"{prefix}{key}".replace("-", "_")
        if isinstance(value, dict):
            _flatten(value, f"{name}.", kind, path, values)
            continue
        if name not in hints:
            raise UserError(f"--config {path}: {_unknown(name, list(hints))}")
        if name in values:
            raise UserError(f"--config {path} gives {name} twice: leave one of them out.")
        values[name] = _convert(hints[name], value, f"--config {path}: {name}")


def _unknown(name: str, names: list[str]) -> str:
    inner = next((known for known in names if known.startswith(f"{name}.")), None)
    if inner is not None:
        return f"{name} is a table of fields such as {inner}: write [{name}] above them."
    similar = nearest(name, names)
    return f"{name} is no field" + (f": do you mean {similar[0]}?" if similar else "; --help lists them as flags.")


def field_types(kind: Any, prefix: str = "") -> dict[str, Any]:
    """The types of all fields by name, such as "vision.density"."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        types |= field_types(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {f"{prefix}{name}": hint}
    return types


def _convert(kind: Any, value: Any, what: str) -> Any:
    """The value as the field has it. "None" stands for None, as on the command line; TOML has no other word for it."""
    optional = type(None) in get_args(kind)
    if optional and value in (None, "None"):
        return None
    inner = get_args(kind)[0] if optional else kind
    if not fits(inner, value):
        raise UserError(f"{what} is {json.dumps(value, default=str):.60}, but it must be {_words(inner)}.")
    return Path(value) if inner is Path else tuple(value) if get_origin(inner) is tuple else value


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return "a list of whole numbers, such as [1, 2]" if int in get_args(kind) else "a list of names in brackets"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text in quotes")


def _replace(part: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass with these values; those of its parts have the part's name and a dot in front."""
    changed: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    for outer in {name.partition(".")[0] for name in values if "." in name}:
        inner = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{outer}.")}
        changed[outer] = _replace(getattr(part, outer), inner)
    return dataclasses.replace(part, **changed)
