"""What the tuner measures for the gated residual: 32 captions of 77 tokens in SmolLM2's width."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hive_kernels.choice import HEADER, Choice, literal
from hive_kernels.gated_residual import measured_tiles
from hive_kernels.gated_residual.measured_tiles import ELEMENTWISE
from hive_kernels.gated_residual.tiles import CANDIDATES
from hive_kernels.launch import capability

TABLE_FILE = Path(measured_tiles.__file__)
TOKENS, WIDTH = 32 * 77, 960


def choices(device: torch.device) -> Iterator[Choice]:
    """See :mod:`hive_kernels.choice`."""
    for dtype in (torch.bfloat16, torch.float32):  # fp32 is the stream under autocast
        x, y = (torch.randn(TOKENS, WIDTH, device=device, dtype=dtype) for _ in range(2))
        gate = torch.full((1,), 0.5, device=device)

        def call(x: Tensor = x, y: Tensor = y, gate: Tensor = gate) -> Sequence[Tensor]:
            operators = torch.ops.hive_kernels
            return [operators.gated_residual(x, y, gate), *operators.gated_residual_backward(x, y, gate)]

        key = (capability(device), str(dtype).removeprefix("torch."))
        yield Choice(f"gated residual {key[1]}", ELEMENTWISE, key, [tuple(tile) for tile in CANDIDATES], call)


def render() -> str:
    """The text of measured_tiles.py for the table in memory."""
    return f"""{HEADER}

# (compute capability, dtype of the residual stream): Tile
ELEMENTWISE: dict[tuple[int, str], tuple[int, int]] = {literal(ELEMENTWISE)}
"""
