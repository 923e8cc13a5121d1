"""Which tile each attention kernel runs with: looked up in a frozen table, never tuned at run time.

A tuner at run time would be keyed on totals that change every step, ranks would disagree, and results would stop being
reproducible. ``python -m hive_kernels.tune`` measures :func:`candidates` and rewrites ``tile_table.py``
with :func:`render`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import torch

from hive_kernels.cross_attention.tile_table import TABLE

MAX_HEAD_DIM = 128
SHORT = 64  # packed rows (tokens times heads of a group) up to which a caption is short


@dataclass(frozen=True)
class Tile:
    """A launch: ``rows`` packed query rows by ``keys`` keys, on ``warps`` warps, loads ``stages`` deep."""

    rows: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiles:
    """The tiles of one (capability, element bits, head size, size bucket)."""

    forward: Tile
    query_gradient: Tile
    key_gradient: Tile
    one_pass: Tile | None
    """The backward in one kernel, for samples of at most this many rows; None where two kernels are used for all."""


Key = tuple[int, int, int, str]
"""(compute capability as 90, bits of an element, head size as :func:`block_d` rounds it, "short" or "long")."""


def block_d(head_dim: int) -> int:
    """The power of two, at least 32, that a head is padded to in registers."""
    return max(32, 1 << (head_dim - 1).bit_length())


def bucket(rows: int) -> str:
    """The size bucket of samples of at most ``rows`` packed rows."""
    return "short" if rows <= SHORT else "long"


def capabilities() -> list[int]:
    """Those that the table has entries for."""
    return sorted({key[0] for key in TABLE})


def lookup(capability: int, dtype: torch.dtype, head_dim: int, rows: int) -> Tiles:
    """The tiles for a GPU; one that the table doesn't know gets those of the nearest older one.

    Capability 0, the interpreter's, gets the oldest.

    Raises:
        ValueError: the GPU is older than every one in the table.
    """
    known = [c for c in capabilities() if c <= (capability or capabilities()[0])]
    if not known:
        raise ValueError(
            f"the GPU's compute capability is {capability / 10}; allowed: {capabilities()[0] / 10} or above"
        )
    return entry((known[-1], dtype.itemsize * 8, block_d(head_dim), bucket(rows)))


def entry(key: Key) -> Tiles:
    """What the table holds under ``key``."""
    launches = {role: None if launch is None else Tile(*launch) for role, launch in TABLE[key].items()}
    return Tiles(**launches)  # type: ignore[arg-type]  # tests check that one_pass alone is ever None


def candidates(key: Key, role: str) -> Iterator[Tile]:
    """Tiles worth measuring for one kernel; ``python -m hive_kernels.aot`` says which of them fit the GPU.

    Args:
        key: an entry of the table.
        role: a field of :class:`Tiles`.
    """
    _, bits, _, size = key
    rows = (16, 32, 64) if size == "short" else (32, 64, 128)
    if role == "one_pass":
        rows = (64,) if size == "short" else (128,)
    for m in rows:
        for n in (16, 32) if bits == 32 else (32, 64, 128):
            for warps in (4, 8) if m * n >= 4096 else (2, 4):
                for stages in (1, 2) if bits == 32 else (1, 2, 3):
                    yield Tile(m, n, warps, stages)


def render(table: Mapping[Key, Tiles]) -> str:
    """The text of tile_table.py."""
    lines = [
        '"""Written by ``python -m hive_kernels.tune``; read through hive_kernels.cross_attention.tiles.',
        "",
        "(compute capability, bits of an element, head size, bucket): kernel: (rows, keys, warps, stages).",
        '"""',
        "",
        "TABLE: dict[tuple[int, int, int, str], dict[str, tuple[int, int, int, int] | None]] = {",
    ]
    for key in sorted(table):
        lines.append(f"    {key!r}: {{".replace("'", '"'))
        for field in fields(Tiles):
            tile = getattr(table[key], field.name)
            launch = None if tile is None else (tile.rows, tile.keys, tile.warps, tile.stages)
            lines.append(f'        "{field.name}": {launch},')
        lines.append("    },")
    return "\n".join([*lines, "}", ""])
