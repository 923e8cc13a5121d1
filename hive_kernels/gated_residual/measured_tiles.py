"""Tiles that ``python -m hive_kernels.tune`` measured to be faster than those of tiles.py. It rewrites this file."""

# (compute capability, dtype of the residual stream): Tile
ELEMENTWISE: dict[tuple[int, str], tuple[int, int]] = {}
