"""Reads a command's flags. A flag may be cut to a unique beginning (`--lang.weig`); a mistyped one is one sentence."""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from hive.errors import UserError

T = TypeVar("T")
SHOWN = 4  # candidates in a sentence
TYRO = "--tyro-"  # the library's own flags, which write shell completion


def read_flags(kind: Any, argv: Sequence[str], program: str, default: T | None = None) -> T:
    """The dataclass `kind`, or one of a union of them, read from a command line; `default` holds the flags' defaults.

    `--help` and values of the wrong type exit. Raises `UserError` for an unknown flag and for an ambiguous beginning.
    """
    words = spell_out(argv, list(flags_of(kind)), program)
    if default is None:
        return tyro.cli(kind, args=words, prog=program)
    return tyro.cli(kind, default=default, args=words, prog=program)


def spell_out(argv: Sequence[str], flags: Sequence[str], program: str) -> list[str]:
    """The command line with every flag in full, as `--language.weights` for `--lang.weig`; all else stays as it is.

    A flag of `flags` that is written out wins over longer ones that begin like it. Dashes and underscores are the same.
    Raises `UserError` where several flags begin so, or none does.
    """
    words: list[str] = []
    flags = list(dict.fromkeys(flags))  # the dataclasses of a union share some
    for number, word in enumerate(argv):
        if word == "--":  # all that follows are values
            return [*words, *argv[number:]]
        if not word.startswith("--") or word.startswith(TYRO):
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        words.append(_find(name, ["--help", *flags], program) + equals + value)
    return words


def _find(name: str, flags: Sequence[str], program: str) -> str:
    given = name.replace("_", "-")
    if given in flags:
        return given
    parts = given.split(".")
    fitting = [flag for flag in flags if _begin(parts, flag.split("."))]
    fitting = fitting or [flag for flag in flags if flag.startswith(given)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(f"{name} can be {_either(fitting)}: write more of the flag's name.")
    similar = nearest(given, flags)
    hint = f"do you mean {_either(similar)}?" if similar else f"{program} --help lists them."
    raise UserError(f"{name} is no flag of {program}: {hint}")


def _begin(parts: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether each part of a dotted name begins the other name's part in the same place."""
    return len(parts) == len(whole) and all(full.startswith(part) for part, full in zip(parts, whole, strict=True))


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """The most similar ones of `names`, the best first; none where nothing is similar."""
    last = [known for known in names if known.rpartition(".")[2] == name.removeprefix("--").rpartition(".")[2]]
    return (difflib.get_close_matches(name, names, SHOWN, 0.8) or last)[:SHOWN]


def _either(names: Sequence[str]) -> str:
    shown = list(names[:SHOWN])
    if len(names) > SHOWN:
        return f"{', '.join(shown)} or {len(names) - SHOWN} others"
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def flags_of(kind: Any, prefix: str = "") -> Iterator[str]:
    """The flags that tyro makes of a dataclass's fields, nested ones with dots, or of all dataclasses of a union."""
    if get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            yield from flags_of(one, prefix)
        return
    for name, hint in get_type_hints(kind, include_extras=True).items():
        marks: tuple[Any, ...] = ()
        if get_origin(hint) is Annotated:
            hint, *rest = get_args(hint)
            marks = tuple(rest)
        if tyro.conf.Positional in marks or tyro.conf.Suppress in marks:
            continue
        names = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
        flag = (names[0] if names else name).replace("_", "-")
        if dataclasses.is_dataclass(hint):
            yield from flags_of(hint, f"{prefix}{flag}." if flag else prefix)
            continue
        yield f"--{prefix}{flag}"
        if hint is bool:
            yield f"--{prefix}no-{flag}"
