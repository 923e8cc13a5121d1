"""Tile configurations of the gated residual, frozen; what measured_tiles.py doesn't hold gets the first candidate."""

from typing import NamedTuple

from hive_kernels.gated_residual.measured_tiles import ELEMENTWISE


class Tile(NamedTuple):
    """Elements that a program handles, forward or backward; also those that one partial gate gradient sums."""

    elements: int
    num_warps: int


CANDIDATES = (Tile(2048, 4), Tile(1024, 4), Tile(4096, 8), Tile(4096, 4))


def elementwise(capability: int, dtype: str) -> Tile:
    return Tile(*ELEMENTWISE.get((capability, dtype), CANDIDATES[0]))
