"""One decision that ``python -m hive_kernels.tune`` takes, and how a table of decisions is written down.

An operation that can be tuned has a module ``tuning`` with ``choices(device)``, which yields these for its usual
shapes, the most rewarding first; ``TABLE_FILE``; and ``render()``, that file's text for the tables in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

HEADER = (
    '"""Tiles that ``python -m hive_kernels.tune`` measured to be faster than those of tiles.py. '
    'It rewrites this file."""'
)
"""The docstring of a table's file."""


class Choice(NamedTuple):
    """Which value ``table[key]`` should have; None stands for no entry, that is, for the default."""

    name: str
    table: dict[Any, Any]
    key: Any
    candidates: Sequence[Any]
    call: Callable[[], Sequence[Tensor]]
    """Runs what the entry decides on, looking it up in ``table``; the results are compared between candidates."""

    def put(self, value: Any) -> None:
        if value is None:
            self.table.pop(self.key, None)
        else:
            self.table[self.key] = value


def literal(table: Mapping[Any, tuple[int, ...]]) -> str:
    """The source of a dict with one entry a line, sorted, as the formatter would leave it."""
    if not table:
        return "{}"
    lines = [f"    {key!r}: {tuple(value)!r},".replace("'", '"') for key, value in sorted(table.items())]
    return "\n".join(["{", *lines, "}"])
