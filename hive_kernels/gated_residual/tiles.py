"""Tile configurations of the gated residual, frozen; ``python -m hive_kernels.tune`` rewrites ELEMENTWISE."""

from typing import NamedTuple


class Tile(NamedTuple):
    """Elements that a program handles, forward or backward; also those that one partial gate gradient sums."""

    elements: int
    num_warps: int


CANDIDATES = (Tile(2048, 4), Tile(1024, 4), Tile(4096, 8), Tile(4096, 4))

# (compute capability, dtype of the residual stream)
ELEMENTWISE: dict[tuple[int, str], Tile] = {}


def elementwise(capability: int, dtype: str) -> Tile:
    """The first candidate where nothing was measured."""
    return ELEMENTWISE.get((capability, dtype), CANDIDATES[0])
