"""Which tile each attention kernel runs with: looked up in a frozen table, never tuned at run time.

The rule below was chosen by hand, among tiles that compile without a spill (``python -m hive_kernels.aot``); nothing of
it has been measured. ``python -m hive_kernels.tune`` measures :func:`candidates` and writes those that are faster to
measured_tiles.py, which has precedence over the rule. A tuner at run time would be keyed on totals that change every
step, ranks would disagree, and results would not be reproducible.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from hive_kernels.attention.measured_tiles import MEASURED

MAX_HEAD_DIM = 128
SHORT = 64  # a text of at most so many packed rows (tokens times query heads per key head) is short
ROLES = ("forward", "query_gradient", "key_gradient", "one_pass")


class Tile(NamedTuple):
    """A launch: ``rows`` packed query rows by ``keys`` keys, on ``warps`` warps, loads ``stages`` deep.

    For one_pass, ``rows`` is also the most that a sample may have; TWO_KERNELS, without rows, never uses that kernel.
    """

    rows: int
    keys: int
    warps: int
    stages: int


TWO_KERNELS = Tile(0, 0, 0, 0)

Key = tuple[str, int, int, int, str]
"""(kernel, compute capability as 90, bits of an element, padded head size, "short" or "long")."""

CAPABILITIES = (80, 86, 89, 90, 100, 120)  # the GPU generations that tiles were chosen for
# Kernel, bits of an element, padded head size: the tile of every generation that EXCEPTIONS doesn't name.
RULE = {
    ("forward", 16, 32): Tile(64, 64, 4, 3),
    ("forward", 16, 64): Tile(64, 64, 4, 3),
    ("forward", 16, 128): Tile(64, 32, 4, 2),
    ("forward", 32, 32): Tile(64, 16, 4, 1),
    ("forward", 32, 64): Tile(64, 32, 8, 1),
    ("forward", 32, 128): Tile(16, 32, 8, 1),
    ("query_gradient", 16, 32): Tile(64, 64, 4, 2),
    ("query_gradient", 16, 64): Tile(64, 32, 4, 2),
    ("query_gradient", 16, 128): Tile(64, 32, 8, 2),
    ("query_gradient", 32, 32): Tile(32, 32, 4, 1),
    ("query_gradient", 32, 64): Tile(32, 32, 8, 1),
    ("query_gradient", 32, 128): Tile(16, 16, 8, 1),
    ("key_gradient", 16, 32): Tile(64, 64, 4, 2),
    ("key_gradient", 16, 64): Tile(32, 64, 4, 2),
    ("key_gradient", 16, 128): Tile(32, 64, 8, 2),
    ("key_gradient", 32, 32): Tile(32, 32, 4, 1),
    ("key_gradient", 32, 64): Tile(32, 32, 4, 1),
    ("key_gradient", 32, 128): Tile(16, 32, 4, 1),
    ("one_pass", 16, 32): Tile(64, 32, 4, 2),
    ("one_pass", 16, 64): Tile(64, 32, 8, 2),
    ("one_pass", 16, 128): TWO_KERNELS,
    ("one_pass", 32, 32): Tile(64, 32, 8, 1),
    ("one_pass", 32, 64): Tile(64, 32, 8, 1),
    ("one_pass", 32, 128): TWO_KERNELS,
}
# By the same keys, the tiles of generations that differ from RULE. 90 and 100 have the most shared memory.
EXCEPTIONS = {
    ("forward", 16, 32): {120: Tile(64, 32, 4, 3)},
    ("forward", 16, 64): {120: Tile(64, 32, 4, 3)},
    ("forward", 16, 128): dict.fromkeys((90, 100), Tile(64, 64, 4, 2)),
    ("forward", 32, 32): {80: Tile(64, 16, 8, 1), 100: Tile(64, 32, 8, 1)},
    ("forward", 32, 128): {80: Tile(16, 16, 8, 2), **dict.fromkeys((86, 89), Tile(16, 16, 4, 1))},
    ("query_gradient", 16, 64): {120: Tile(64, 32, 8, 2), **dict.fromkeys((90, 100), Tile(64, 64, 4, 2))},
    ("query_gradient", 16, 128): dict.fromkeys((90, 100), Tile(64, 32, 4, 2)),
    ("key_gradient", 16, 64): dict.fromkeys((90, 100), Tile(64, 64, 4, 2)),
    ("key_gradient", 16, 128): dict.fromkeys((90, 100), Tile(64, 64, 8, 2)),
    ("key_gradient", 32, 32): {120: Tile(32, 32, 8, 1)},
    ("key_gradient", 32, 64): {80: Tile(32, 32, 8, 1)},
    ("one_pass", 16, 32): dict.fromkeys((90, 100), Tile(64, 64, 4, 2)),
    ("one_pass", 16, 64): dict.fromkeys((90, 100), Tile(64, 32, 4, 2)),
    ("one_pass", 16, 128): dict.fromkeys((90, 100), Tile(64, 32, 8, 1)),
}


def by_rule() -> dict[Key, Tile]:
    """RULE and EXCEPTIONS for every generation and both sizes, which differ only in one_pass, for short captions."""
    return {
        (role, capability, bits, padded, size): TWO_KERNELS
        if (role, size) == ("one_pass", "long")
        else EXCEPTIONS.get((role, bits, padded), {}).get(capability, tile)
        for (role, bits, padded), tile in RULE.items()
        for capability in CAPABILITIES
        for size in ("long", "short")
    }


TABLE: dict[Key, tuple[int, int, int, int]] = {**by_rule(), **MEASURED}


def block_d(head_dim: int) -> int:
    """The power of two, at least 32, that a head is padded to in registers."""
    return max(32, 1 << (head_dim - 1).bit_length())


def table_key(role: str, capability: int, dtype: torch.dtype, head_dim: int, rows: int) -> Key:
    """The key of a launch in TABLE.

    Args:
        role: one of ROLES.
        capability: of the GPU.
        dtype: fp16, bf16 or fp32.
        head_dim: at most MAX_HEAD_DIM.
        rows: a bound on the packed rows of a sample.
    """
    return role, capability, dtype.itemsize * 8, block_d(head_dim), "short" if rows <= SHORT else "long"


def lookup(role: str, capability: int, dtype: torch.dtype, head_dim: int, rows: int) -> Tile:
    """The tile for a launch; arguments as in :func:`table_key`.

    A GPU that isn't in the table gets the tile of the nearest older one, the interpreter (capability 0) the oldest.

    Raises:
        ValueError: the GPU is older than every one in the table.
    """
    launch = TABLE.get(table_key(role, capability, dtype, head_dim, rows))
    if launch is not None:  # every launch calls this: the search below would be a good part of its cost
        return Tile(*launch)
    known = sorted({key[1] for key in TABLE})
    for older in reversed(known):
        if older > (capability or known[0]):
            continue
        launch = TABLE.get(table_key(role, older, dtype, head_dim, rows))
        if launch is not None:
            return Tile(*launch)
    raise ValueError(f"the GPU's compute capability is {capability / 10}; allowed: {known[0] / 10} or above")


def candidates(key: Key) -> Iterator[Tile]:
    """Tiles worth measuring for an entry of the table; some don't fit every GPU."""
    role, _, bits, _, size = key
    if role == "one_pass":
        yield TWO_KERNELS
    heights = {"one_pass": (64,) if size == "short" else (128,), "key_gradient": (32, 64)}.get(role, (32, 64, 128))
    widths = (16, 32) if bits == 32 else (32, 64, 128) if role == "key_gradient" else (32, 64)
    for rows in heights:
        for keys in widths:
            for warps in (4, 8):
                if rows * keys >= 512 * warps:
                    for stages in (1,) if bits == 32 else (1, 2) if role == "one_pass" else (2, 3):
                        yield Tile(rows, keys, warps, stages)
