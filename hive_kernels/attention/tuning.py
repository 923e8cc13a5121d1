"""What the tuner measures for attention: SmolLM2's 15/5 heads over 576 patches of 32 images, long and short texts."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hive_kernels.attention import measured_tiles, tiles
from hive_kernels.choice import HEADER, Choice, literal
from hive_kernels.launch import capability
from hive_kernels.testing import cu_seqlens

TABLE_FILE = Path(measured_tiles.__file__)
BATCH, KEYS, HEADS, GROUP, DTYPE = 32, 576, 5, 3, torch.bfloat16
# The most tokens of a caption, and the kernels tuned at it. At 42 tokens, 126 rows, one_pass may still suit long texts.
CAPTIONS = ((77, tiles.ROLES[:3]), (42, ("one_pass",)), (21, tiles.ROLES))


def choices(device: torch.device) -> Iterator[Choice]:
    """See :mod:`hive_kernels.choice`."""
    from hive_kernels.attention.triton_backend import backward, forward
    from hive_kernels.attention.triton_backend.problem import Problem

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
            problem = Problem.of(q, k, v, offsets, None, dim**-0.5, longest)
            out, lse = forward.forward(problem)

            def run(
                role: str,
                problem: Problem = problem,
                saved: tuple[Tensor, Tensor, Tensor] = (out, lse, grad),
            ) -> Sequence[Tensor]:
                if role == "forward":
                    return forward.forward(problem)
                if role == "one_pass":
                    return backward.backward(problem, *saved)
                gradients = [torch.empty_like(x) for x in (problem.q, problem.k, problem.v)]
                delta = backward.query_gradient(problem, *saved, gradients[0])
                if role == "query_gradient":
                    return delta, gradients[0]
                _, lse, grad = saved
                backward.key_gradient(problem, lse, grad, delta, gradients[1], gradients[2])
                return gradients[1:]

            for role in roles:
                key = tiles.table_key(role, capability(device), DTYPE, dim, longest * GROUP)
                name = f"attention {role} {dim} {key[4]}"
                yield Choice(name, tiles.TABLE, key, [*tiles.candidates(key)], partial(run, role))


def render() -> str:
    """The text of measured_tiles.py: the entries of the table in memory that differ from the rule."""
    rule = tiles.by_rule()
    measured = {key: tile for key, tile in tiles.TABLE.items() if tile != rule.get(key)}
    return f"""{HEADER}

# (kernel, compute capability, bits of an element, padded head size, size bucket): Tile
MEASURED: dict[tuple[str, int, int, int, str], tuple[int, int, int, int]] = {literal(measured)}
"""
