"""Compares the fused kernels on this device with the fp64 reference, forward and every gradient, at small shapes.

Compilers miscompile: a kernel that is right on one GPU generation with one Triton release has been wrong with another.
So a backend's first launch on a GPU in a process runs this once (:mod:`hive_kernels.first_use`).
``python -m hive_kernels.selfcheck [triton|cuda]`` runs it and prints what it measured. Training runs in 16 bits, bf16
above all, so fp32 is checked only where it is asked for.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hive_kernels import first_use
from hive_kernels.attention.cross import cross_attention
from hive_kernels.attention.joint import joint_attention
from hive_kernels.attention.weights import cross_attention_weights
from hive_kernels.backends import BACKENDS, OPERATIONS
from hive_kernels.gated_residual.api import gated_residual
from hive_kernels.projector.api import residual_projector
from hive_kernels.testing import Operation, Result, cu_seqlens, measure


class SelfCheckError(RuntimeError):
    """A fused kernel's result on this device isn't the reference's."""


class Case(NamedTuple):
    """An operation with the shapes of its tensors."""

    name: str
    """The operation's name in OPERATIONS, and after a comma what is special about the case."""
    operation: Operation
    shapes: tuple[tuple[int, ...], ...]
    backend: str = ""
    """The only backend that runs the case, because it has separate kernels for it; empty means all."""


def run(
    device: torch.device | str,
    backend: str = "triton",
    dtypes: Sequence[torch.dtype] | None = None,
    chosen: Sequence[Case] | None = None,
) -> list[tuple[str, torch.dtype, Result]]:
    """(case, dtype, result) of the chosen cases, or of all that ``backend`` has kernels for, on ``device``.

    ``dtypes`` are those of 16 bits if they are left out, bf16 first where the device can run it.

    Raises:
        SelfCheckError: a result is wrong; names the case, dtype and result, the error and what is allowed.
    """
    device = torch.empty(0, device=device).device  # with its index, as tensors carry it
    first_use.mark_checked(device, backend)
    results = []
    for dtype in dtypes or half_precision(backend, device):
        for case in chosen or cases(backend):
            for result in check(case, device, dtype, backend):
                if not result.passes:
                    raise SelfCheckError(
                        f"{case.name} is wrong on {device_name(device)}: {describe(result, dtype)}. "
                        f"Use backend 'torch', and report it with the versions of torch and {backend}; "
                        "HIVE_SKIP_SELFCHECK=1 goes on regardless"
                    )
                results.append((case.name, dtype, result))
    return results


def half_precision(backend: str, device: torch.device) -> list[torch.dtype]:
    """The 16-bit dtypes in which the backend's kernels are checked on the device, bf16 first."""
    return [dtype for dtype in BACKENDS[backend].checked[device.type] if dtype.itemsize == 2]


def check(case: Case, device: torch.device, dtype: torch.dtype, backend: str) -> list[Result]:
    """The errors of a case's output and gradients on one set of random tensors."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in case.shapes]
    return measure(case.operation, [x.to(device) for x in tensors], dtype, backend)


def describe(result: Result, dtype: torch.dtype) -> str:
    """One result's error in words."""
    return f"{result.name} in {dtype} is {result.error:.3g} from the fp64 reference, {result.allowed:.3g} is allowed"


def cases(backend: str) -> Iterator[Case]:
    """The cases that the backend has kernels for: small, but with several tiles, a ragged edge and an empty sample."""
    for case in _all_cases():
        operation = OPERATIONS[case.name.partition(",")[0]]
        if operation.served_by(backend) == backend and case.backend in ("", backend):
            yield case


def _all_cases() -> Iterator[Case]:
    offsets = cu_seqlens([37, 0, 90, 3])

    def attention(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
        return cross_attention(q, k, v, offsets.to(q.device), max_seqlen_q=90, backend=backend)

    yield Case("cross_attention", attention, ((130, 6, 64), (4, 145, 2, 64), (4, 145, 2, 64)))
    wide = ((130, 2, 128), (4, 70, 1, 128), (4, 70, 1, 128))
    yield Case("cross_attention, wide heads", attention, wide, "cuda")

    def captions(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
        return cross_attention(q, k, v, cu_seqlens([9, 0, 5], q.device), max_seqlen_q=9, backend=backend)

    # Few rows: both backends have a backward pass of their own for them, and Triton's is its only one-pass kernel.
    yield Case("cross_attention, short texts", captions, ((14, 6, 64), (3, 145, 2, 64), (3, 145, 2, 64)))
    # Triton compiles kernels without masks for images whose tokens any tile of keys divides.
    whole_tiles = (4, 192, 2, 64)
    yield Case("cross_attention, whole tiles", attention, ((130, 6, 64), whole_tiles, whole_tiles), "triton")

    def weights(q: Tensor, k: Tensor, backend: str) -> Tensor:
        offset = offsets.to(q.device)
        _, lse = cross_attention(q, k, k, offset, max_seqlen_q=90, backend=backend, return_lse=True)
        tokens = torch.tensor([129, 0, 50], device=q.device)
        return cross_attention_weights(q, k, lse, offset, tokens=tokens, backend=backend)

    yield Case("cross_attention_weights", weights, ((130, 6, 64), (4, 145, 2, 64)))

    def joint(q: Tensor, k: Tensor, v: Tensor, k_image: Tensor, v_image: Tensor, backend: str) -> Tensor:
        return joint_attention(q, k, v, k_image, v_image, offsets.to(q.device), max_seqlen=90, backend=backend)

    text, image = (130, 2, 64), (4, 145, 2, 64)
    yield Case("joint_attention", joint, ((130, 6, 64), text, text, image, image))
    whole = ((130, 6, 64), text, text, whole_tiles, whole_tiles)
    yield Case("joint_attention, whole tiles", joint, whole, "triton")

    def projector(x: Tensor, *parameters: Tensor, backend: str) -> Tensor:
        return residual_projector(x, *parameters, backend=backend)

    hidden = ((2, 80), (2, 80), (2, 80, 96), (2, 96), (2, 96, 96), (2, 96))
    yield Case("residual_projector", projector, ((2, 70, 80), *hidden, (2, 80, 96), (2, 96)))
    square = ((2, 96), (2, 96), (2, 96, 96), (2, 96), (2, 96, 96), (2, 96))
    yield Case("residual_projector, identity skip", projector, ((2, 70, 96), *square))
    yield Case("gated_residual", gated_residual, ((70, 96), (70, 96), (1,)))


def device_name(device: torch.device) -> str:
    """The GPU's name, or "this CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
