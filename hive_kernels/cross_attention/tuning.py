"""What the tuner measures for attention: SmolLM2's 15/5 heads over 576 patches of 32 images, long and short texts."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hive_kernels.choice import Choice, literal
from hive_kernels.cross_attention import tile_table, tiles
from hive_kernels.cross_attention.tile_table import TABLE
from hive_kernels.launch import capability
from hive_kernels.testing import cu_seqlens

TABLE_FILE = Path(tile_table.__file__)
BATCH, KEYS, HEADS, GROUP, DTYPE = 32, 576, 5, 3, torch.bfloat16
# The most tokens of a caption, and what is tuned at such. At 42, 126 rows, one kernel could still serve long ones.
CAPTIONS = ((77, tiles.ROLES[:3]), (42, ("one_pass",)), (21, tiles.ROLES))


def choices(device: torch.device) -> Iterator[Choice]:
    from hive_kernels.cross_attention import triton_kernels

    for dim in (64, 128):
        for longest, roles in CAPTIONS:
            generator = torch.Generator().manual_seed(0)
            lengths = torch.randint(4, longest + 1, (BATCH,), generator=generator).tolist()
            q, k, v, grad = (
                torch.randn(shape, generator=generator).to(device, DTYPE)
                for shape in (
                    (sum(lengths), HEADS * GROUP, dim),
                    *[(BATCH, KEYS, HEADS, dim)] * 2,
                    (sum(lengths), HEADS * GROUP, dim),
                )
            )
            offsets = cu_seqlens(lengths, device)
            problem = triton_kernels.Problem.of(q, k, v, None, None, offsets, None, dim**-0.5, longest)
            out, lse = triton_kernels.forward(problem)

            def run(
                role: str,
                problem: triton_kernels.Problem = problem,
                saved: tuple[Tensor, Tensor, Tensor] = (out, lse, grad),
            ) -> Sequence[Tensor]:
                if role == "forward":
                    return triton_kernels.forward(problem)
                if role == "one_pass":
                    return triton_kernels.backward(problem, *saved)
                gradients = [torch.empty_like(x) for x in (problem.q, problem.k, problem.v)]
                delta = triton_kernels.query_gradient(problem, *saved, gradients[0])
                if role == "query_gradient":
                    return delta, gradients[0]
                _, lse, grad = saved
                triton_kernels.key_gradient(problem, lse, grad, delta, gradients[1], gradients[2])
                return gradients[1:]

            for role in roles:
                key = tiles.table_key(role, capability(device), DTYPE, dim, longest * GROUP)
                name = f"attention {role} {dim} {key[4]}"
                yield Choice(name, TABLE, key, [*tiles.candidates(key)], partial(run, role))


def render() -> str:
    """tile_table.py for the table as it is."""
    return f'''"""Written by ``python -m hive_kernels.tune``; read through hive_kernels.cross_attention.tiles."""

# (kernel, compute capability, bits of an element, padded head size, size bucket): Tile
TABLE: dict[tuple[str, int, int, int, str], tuple[int, int, int, int]] = {literal(TABLE)}
'''
