"""What the tuner measures for attention: SmolLM2's 15/5 heads over 576 patches of 32 images, long and short texts."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hive_kernels.attention import measured_tiles, tiles
from hive_kernels.attention.triton_backend.problem import Problem
from hive_kernels.choice import HEADER, Choice, literal
from hive_kernels.launch import capability
from hive_kernels.testing import cu_seqlens

TABLE_FILE = Path(measured_tiles.__file__)
BATCH, KEYS, HEADS, GROUP, DTYPE = 32, 576, 5, 3, torch.bfloat16
# The kernels, and the most tokens of a caption that each is tuned at; first where most is unknown. At 42 tokens, 126
# rows, one_pass may still suit long texts.
ORDER = (
    ("one_pass", (21, 42)),
    ("key_gradient", (77, 21)),
    ("forward", (77, 21)),
    ("query_gradient", (77, 21)),
)


def choices(device: torch.device) -> Iterator[Choice]:
    """See :mod:`hive_kernels.choice`."""
    for dim in (64, 128):
        inputs: dict[int, tuple[Problem, tuple[Tensor, Tensor, Tensor]]] = {}
        for role, longest in ((role, longest) for role, captions in ORDER for longest in captions):
            if longest not in inputs:
                inputs[longest] = _inputs(dim, longest, device)
            key = tiles.table_key(role, capability(device), DTYPE, dim, longest * GROUP)
            name = f"attention {role} {dim} {key[4]}"
            yield Choice(name, tiles.TABLE, key, [*tiles.candidates(key)], partial(_run, role, *inputs[longest]))


def _inputs(dim: int, longest: int, device: torch.device) -> tuple[Problem, tuple[Tensor, Tensor, Tensor]]:
    """A problem with captions of 4 to ``longest`` tokens; its output, log-sum-exp and the output's gradient."""
    from hive_kernels.attention.triton_backend import forward

    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, longest + 1, (BATCH,), generator=generator).tolist()
    text, image = (sum(lengths), HEADS * GROUP, dim), (BATCH, KEYS, HEADS, dim)
    q, k, v, grad = (torch.randn(x, generator=generator).to(device, DTYPE) for x in (text, image, image, text))
    problem = Problem.of(q, k, v, cu_seqlens(lengths, device), None, dim**-0.5, longest)
    return problem, (*forward.forward(problem), grad)


def _run(role: str, problem: Problem, saved: tuple[Tensor, Tensor, Tensor]) -> Sequence[Tensor]:
    """The results of the kernel of this role."""
    from hive_kernels.attention.triton_backend import backward, forward

    if role == "forward":
        return forward.forward(problem)
    out, lse, grad = saved
    if role == "one_pass":
        return backward.backward(problem, out, lse, grad)
    gradients = [torch.empty_like(x) for x in (problem.q, problem.k, problem.v)]
    delta = backward.query_gradient(problem, out, lse, grad, gradients[0])
    if role == "query_gradient":
        return delta, gradients[0]
    backward.key_gradient(problem, lse, grad, delta, gradients[1], gradients[2])
    return gradients[1:]


def render() -> str:
    """The text of measured_tiles.py: the entries of the table in memory that differ from the rule."""
    rule = tiles.by_rule()
    measured = {key: tile for key, tile in tiles.TABLE.items() if tile != rule.get(key)}
    return f"""{HEADER}

# (kernel, compute capability, bits of an element, padded head size, size bucket): Tile
MEASURED: dict[tuple[str, int, int, int, str], tuple[int, int, int, int]] = {literal(measured)}
"""
