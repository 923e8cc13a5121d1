"""The arguments that the measuring children share."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple


class Arguments(NamedTuple):
    """What the parent asks for."""

    values: tuple[str, ...]
    """The step's own arguments, one for each of its names."""
    without: dict[str, str]
    """What must not be measured, and why."""
    items: tuple[str, ...]
    """The items to do; all, where there are none."""


def parse(program: str, names: Sequence[str], arguments: Sequence[str]) -> Arguments:
    """Reads ``NAMES... [--without NAME=REASON]... [ITEM...]``."""
    parser = argparse.ArgumentParser(prog=program)
    for name in names:
        parser.add_argument(name)
    parser.add_argument("--without", action="append", default=[], metavar="NAME=REASON")
    parser.add_argument("items", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    without = dict(each.split("=", 1) for each in options.without)
    return Arguments(tuple(getattr(options, name) for name in names), without, tuple(options.items))
