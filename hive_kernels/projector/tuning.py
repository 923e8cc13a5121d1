"""What the tuner measures for the projector: SigLIP's 576 patches of 32 images, four layers, to SmolLM2's widths."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hive_kernels.choice import HEADER, Choice, literal
from hive_kernels.launch import capability
from hive_kernels.projector import measured_tiles, tiles
from hive_kernels.projector.measured_tiles import ELEMENTWISE, GEMM

TABLE_FILE = Path(measured_tiles.__file__)
LAYERS, ROWS = 4, 32 * 576
WIDTHS = ((1152, 960), (768, 960), (1024, 960))  # (tower, host)


def choices(device: torch.device) -> Iterator[Choice]:
    """See :mod:`hive_kernels.choice`."""
    gpu = capability(device)
    for width_in, width in WIDTHS:
        arguments = _arguments(width_in, width, device)
        out, h = torch.ops.hive_kernels.residual_projector(*arguments, 1e-5, torch.bfloat16)
        grad = torch.randn_like(out)

        def forward(arguments: list[Tensor] = arguments) -> Sequence[Tensor]:
            return torch.ops.hive_kernels.residual_projector(*arguments, 1e-5, torch.bfloat16)

        def backward(arguments: list[Tensor] = arguments, h: Tensor = h, grad: Tensor = grad) -> Sequence[Tensor]:
            return torch.ops.hive_kernels.residual_projector_backward(
                grad, arguments[0], h, *arguments[1:], 1e-5, torch.bfloat16, True, True
            )

        for product, inner, columns in (
            ("hidden", width_in, width),
            ("output", width_in, width),
            ("features", width, width_in),
        ):
            call = backward if product == "features" else forward
            candidates = [None, *(tuple(tile) for tile in tiles.gemm_candidates(product, gpu))]
            key = (product, gpu, "bfloat16", inner, columns)
            yield Choice(f"projector {product} {inner}x{columns}", GEMM, key, candidates, call)
        for kernel in tiles.KERNELS:
            row = width_in if kernel.startswith("layer_norm") else width
            entry = tiles.elementwise_key(kernel, gpu, "bfloat16", row)
            shapes = [tuple(tile) for tile in tiles.elementwise_candidates(kernel, entry[3])]
            call = backward if kernel.endswith("backward") else forward
            yield Choice(f"projector {kernel} {row}", ELEMENTWISE, entry, shapes, call)


def _arguments(width_in: int, width: int, device: torch.device) -> list[Tensor]:
    """x, then the parameters with a linear skip, bf16."""
    shapes = (
        (LAYERS, ROWS, width_in), (LAYERS, width_in), (LAYERS, width_in), (LAYERS, width_in, width), (LAYERS, width),
        (LAYERS, width, width), (LAYERS, width), (LAYERS, width_in, width), (LAYERS, width),
    )  # fmt: skip
    generator = torch.Generator(device).manual_seed(0)
    tensors = [torch.randn(s, generator=generator, device=device, dtype=torch.bfloat16) for s in shapes]
    return [x * x.shape[1] ** -0.5 if x.dim() == 3 and i else x for i, x in enumerate(tensors)]


def render() -> str:
    """The text of measured_tiles.py for the tables in memory."""
    return f"""{HEADER}

# (kernel, compute capability, dtype of the products, width rounded up to a power of two): Tile
ELEMENTWISE: dict[tuple[str, int, str, int], tuple[int, int, int, int]] = {literal(ELEMENTWISE)}

# (product, compute capability, dtype, inner size, columns): Gemm, where ours beat cuBLAS and its elementwise pass
GEMM: dict[tuple[str, int, str, int, int], tuple[int, int, int, int, int]] = {literal(GEMM)}
"""
