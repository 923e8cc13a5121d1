"""One decision that ``python -m hive_kernels.tune`` takes, and the source text of a table of decisions.

An operation that can be tuned has a module ``tuning`` with ``choices(device)``, which yields a :class:`Choice` for each
entry and usual shape, those that matter most first; ``TABLE_FILE``, the path of measured_tiles.py; and ``render()``,
that file's text for the tables in memory.
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
    """The candidates for the value of ``table[key]``; None means no entry, that is, the default."""

    name: str
    table: dict[Any, Any]
    key: Any
    candidates: Sequence[Any]
    call: Callable[[], Sequence[Tensor]]
    """Runs the kernel that looks the entry up in ``table``; its results are compared between candidates."""

    def put(self, value: Any) -> None:
        """Sets ``table[key]``, or removes the entry for None."""
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
