"""Tile configurations of the projector's kernels, frozen: a lookup never measures and never synchronises.

``python -m hive_kernels.tune`` rewrites ELEMENTWISE and GEMM from what it measures on the GPU it runs on. What is not in
a table gets the default: for elementwise kernels a tile of moderate size, for GEMMs cuBLAS.
"""

from typing import NamedTuple


class Tile(NamedTuple):
    """A tile of ``rows`` x ``columns``; kernels that sum over rows walk through ``chunk`` of them in a program."""

    rows: int
    columns: int
    chunk: int
    num_warps: int


class Gemm(NamedTuple):
    """A [rows, inner] x [inner, columns] step of a matrix product."""

    rows: int
    columns: int
    inner: int
    num_warps: int
    num_stages: int


# (kernel, compute capability, dtype of the products, width rounded up to a power of two)
ELEMENTWISE: dict[tuple[str, int, str, int], Tile] = {}

# (product, compute capability, dtype, inner size, columns): where our kernel beat cuBLAS and its separate elementwise
# pass, measured in one run.
GEMM: dict[tuple[str, int, str, int, int], Gemm] = {}

FEWEST_ROWS = 4096  # all layers together; below, a GEMM is not worth an entry and goes to cuBLAS

# Shared memory a block of 100 KB on sm_86, 89 and 120 rules some out: (rows + columns) * inner * stages * 2 bytes.
GEMM_CANDIDATES: dict[int, tuple[Gemm, ...]] = {
    80: (Gemm(128, 128, 64, 8, 3), Gemm(128, 128, 32, 4, 4), Gemm(128, 256, 32, 8, 3)),
    86: (Gemm(128, 128, 32, 8, 3), Gemm(128, 128, 64, 8, 2), Gemm(128, 64, 32, 4, 4)),
    90: (Gemm(128, 128, 64, 8, 4), Gemm(128, 256, 64, 8, 3), Gemm(128, 128, 64, 4, 3)),
}
GEMM_CANDIDATES |= {89: GEMM_CANDIDATES[86], 100: GEMM_CANDIDATES[90], 120: GEMM_CANDIDATES[86]}


def power_of_two(width: int) -> int:
    """The smallest power of two that is at least ``width`` and at least 16."""
    return max(16, 1 << (width - 1).bit_length())


def elementwise(kernel: str, capability: int, dtype: str, width: int) -> Tile:
    """``kernel`` is ``layer_norm``, ``layer_norm_backward``, ``gelu`` or ``gelu_backward``; ``width`` a row's."""
    block = power_of_two(width)
    tile = ELEMENTWISE.get((kernel, capability, dtype, block))
    return tile or elementwise_candidates(kernel, block)[0]


def elementwise_candidates(kernel: str, block: int) -> tuple[Tile, ...]:
    """The default first. A LayerNorm's row lies whole in one tile, so its columns are ``block``."""
    if kernel == "layer_norm":
        return tuple(Tile(max(1, n // block), block, max(1, n // block), warps) for n, warps in _sizes(block, 4096, 2048))
    if kernel == "layer_norm_backward":
        return tuple(
            Tile(min(max(1, n // block), chunk), block, chunk, warps)
            for n, warps in _sizes(block, 2048, 4096)
            for chunk in (64, 32, 128)
        )
    if kernel == "gelu":
        return (Tile(16, 256, 16, 4), Tile(32, 128, 32, 4), Tile(8, 512, 8, 4), Tile(16, 128, 16, 4))
    return (Tile(16, 128, 128, 4), Tile(32, 64, 128, 4), Tile(16, 128, 64, 4), Tile(8, 256, 128, 4))


def _sizes(block: int, *elements: int) -> list[tuple[int, int]]:
    """Elements of a tile and the warps for them: 16 elements a thread, and 32 where a single row is that wide."""
    return [(n, min(8, max(4, max(n, block) // 512))) for n in elements]


def gemm(product: str, capability: int, dtype: str, rows: int, inner: int, columns: int) -> Gemm | None:
    """None is cuBLAS. ``product`` is ``hidden``, ``output`` or ``features``; see triton_gemm.py."""
    return GEMM.get((product, capability, dtype, inner, columns)) if rows >= FEWEST_ROWS else None
