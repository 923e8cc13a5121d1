"""Written by ``python -m hive_kernels.tune``; read through hive_kernels.gated_residual.tiles."""

# (compute capability, dtype of the residual stream): Tile
ELEMENTWISE: dict[tuple[int, str], tuple[int, int]] = {}
