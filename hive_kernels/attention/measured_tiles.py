"""Tiles that ``python -m hive_kernels.tune`` measured to be faster than those of tiles.py. It rewrites this file."""

# (kernel, compute capability, bits of an element, padded head size, size bucket): Tile
MEASURED: dict[tuple[str, int, int, int, str], tuple[int, int, int, int]] = {}
