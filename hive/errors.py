"""The exception for a person's mistake, and sentences that many modules raise it with."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """One sentence: what was given, what is allowed, and what to do.

    Command lines print it without a traceback and exit with code 2. Faults of our own are assertions instead.
    """


def choose(flag: str, name: str, choices: Mapping[str, T]) -> T:
    """Returns the choice of this name; an unknown name, which `flag` gave, raises `UserError` with the known ones."""
    if name not in choices:
        raise UserError(f'{flag} is "{name}", but it must be one of {", ".join(choices)}.')
    return choices[name]


def first_line(error: Exception) -> str:
    """Returns what a library's exception says, in one line; the exception's type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
