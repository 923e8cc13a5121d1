"""Tile configurations of the projector's kernels, frozen: a lookup never measures and never synchronises.

What isn't in measured_tiles.py gets the default: for elementwise kernels a tile of moderate size, for GEMMs cuBLAS.
"""

from typing import NamedTuple

from hive_kernels.projector.measured_tiles import ELEMENTWISE, GEMM

KERNELS = ("layer_norm", "layer_norm_backward", "gelu", "gelu_backward")
PRODUCTS = ("hidden", "output", "features")  # triton_backend/gemm.py defines them
FEWEST_ROWS = 4096  # of all layers together; below, a GEMM goes to cuBLAS whatever the table says


class Tile(NamedTuple):
    """A tile of ``rows`` x ``columns``; in kernels that sum over rows a program loops over ``chunk`` of them."""

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


def elementwise(kernel: str, capability: int, dtype: str, width: int) -> Tile:
    """The tile of ``kernel``, one of KERNELS, for rows of ``width`` elements of ``dtype``, as "bfloat16"."""
    key = elementwise_key(kernel, capability, dtype, width)
    return Tile(*ELEMENTWISE[key]) if key in ELEMENTWISE else elementwise_candidates(kernel, key[3])[0]


def elementwise_key(kernel: str, capability: int, dtype: str, width: int) -> tuple[str, int, str, int]:
    """The key of ELEMENTWISE; arguments as in :func:`elementwise`."""
    return kernel, capability, dtype, max(16, 1 << (width - 1).bit_length())


def elementwise_candidates(kernel: str, block: int) -> tuple[Tile, ...]:
    """Tiles worth measuring, the default first. A tile of a LayerNorm has whole rows, so its columns are ``block``."""
    if kernel == "layer_norm":
        return tuple(Tile(rows, block, rows, warps) for rows, warps in _row_tiles(block, 2048, 4096))
    if kernel == "layer_norm_backward":
        tiles = _row_tiles(block, 4096, 2048)
        return tuple(Tile(min(rows, chunk), block, chunk, warps) for chunk in (64, 32, 128) for rows, warps in tiles)
    if kernel == "gelu":
        return (Tile(16, 128, 16, 4), Tile(16, 256, 16, 4), Tile(32, 128, 32, 4), Tile(8, 512, 8, 4))
    return (Tile(16, 128, 128, 4), Tile(32, 64, 128, 4), Tile(16, 128, 64, 4), Tile(8, 256, 128, 4))


def _row_tiles(block: int, *elements: int) -> list[tuple[int, int]]:
    """(rows, warps) for tiles of about so many elements, 16 per thread."""
    return [(max(1, n // block), min(16, max(4, max(n, block) // 512))) for n in elements]


def gemm(product: str, capability: int, dtype: str, rows: int, inner: int, columns: int) -> Gemm | None:
    """The tile of ``product``, one of PRODUCTS, or None for cuBLAS; ``rows`` are those of all layers together."""
    entry = GEMM.get((product, capability, dtype, inner, columns))
    return None if entry is None or rows < FEWEST_ROWS else Gemm(*entry)


def gemm_candidates(product: str, capability: int) -> tuple[Gemm, ...]:
    """Tiles that fit a block's shared memory and, with the product's epilogue, its registers."""
    if capability in (90, 100):
        wide = () if product == "hidden" else (Gemm(128, 256, 64, 8, 3),)
        return (Gemm(128, 128, 64, 8, 4), Gemm(128, 128, 64, 8, 3), Gemm(128, 128, 32, 8, 4), *wide)
    if capability == 80:
        return (Gemm(128, 128, 64, 8, 3), Gemm(128, 128, 32, 8, 4), Gemm(128, 64, 32, 4, 4))
    narrow = () if capability == 120 else (Gemm(128, 64, 32, 4, 4),)  # spills there
    return (Gemm(128, 128, 32, 8, 3), Gemm(128, 128, 64, 8, 2), *narrow)
