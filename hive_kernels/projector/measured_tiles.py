"""Tiles that ``python -m hive_kernels.tune`` measured to be faster than those of tiles.py. It rewrites this file."""

# (kernel, compute capability, dtype of the products, width rounded up to a power of two): Tile
ELEMENTWISE: dict[tuple[str, int, str, int], tuple[int, int, int, int]] = {}

# (product, compute capability, dtype, inner size, columns): Gemm, where ours beat cuBLAS and its elementwise pass
GEMM: dict[tuple[str, int, str, int, int], tuple[int, int, int, int, int]] = {}
