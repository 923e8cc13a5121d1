"""Written by ``python -m hive_kernels.tune``; read through hive_kernels.projector.tiles."""

# (kernel, compute capability, dtype of the products, width rounded up to a power of two): Tile
ELEMENTWISE: dict[tuple[str, int, str, int], tuple[int, int, int, int]] = {}

# (product, compute capability, dtype, inner size, columns): Gemm, where ours beat cuBLAS and its elementwise pass
GEMM: dict[tuple[str, int, str, int, int], tuple[int, int, int, int, int]] = {}
