"""Tile configurations of the gated residual, frozen: from measured_tiles.py, or else the first candidate."""

from typing import NamedTuple

from hive_kernels.gated_residual.measured_tiles import ELEMENTWISE


class Tile(NamedTuple):
    """Elements that a program computes, forward or backward, and that one partial of the gate's gradient sums."""

    elements: int
    num_warps: int


CANDIDATES = (Tile(2048, 4), Tile(1024, 4), Tile(4096, 8), Tile(4096, 4))


def elementwise(capability: int, dtype: str) -> Tile:
    """The tile for ``dtype``, as "bfloat16", of the residual stream."""
    return Tile(*ELEMENTWISE.get((capability, dtype), CANDIDATES[0]))
