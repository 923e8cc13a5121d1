"""Checks the fused kernels on this device against the fp64 reference, forward and every gradient, at small shapes.

Compilers miscompile: a kernel that is right on one GPU generation with one Triton release has been wrong with another.
So a backend's first launch on a CUDA device in a process runs this once; HIVE_SKIP_SELFCHECK=1 or ``skip()`` leaves it
out. ``python -m hive_kernels.selfcheck [triton|cuda]`` runs it and prints what it measured.
"""

import os
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hive_kernels import (
    cross_attention,
    cross_attention_weights,
    gated_residual,
    joint_attention,
    residual_projector,
)
from hive_kernels.backends import SERVED_BY, reason_unavailable
from hive_kernels.testing import Operation, Result, cu_seqlens, measure

_checked: set[tuple[torch.device, str]] = set()
_skipped = False
_lock = threading.RLock()


# The interpreter's bf16 products are wrong; the CUDA backend has no fp32 attention, nor needs it.
_DTYPES = {
    ("triton", "cuda"): (torch.bfloat16, torch.float16, torch.float32),
    ("triton", "cpu"): (torch.float16, torch.float32),
    ("cuda", "cuda"): (torch.bfloat16, torch.float16),
    ("cuda", "cpu"): (torch.bfloat16, torch.float16),
}


class SelfCheckError(RuntimeError):
    """A fused kernel computes something else than the definition on this device."""


class Case(NamedTuple):
    name: str
    operation: Operation
    shapes: tuple[tuple[int, ...], ...]
    backend: str = ""
    """The only one that has kernels of its own for this case; none means all."""


def skip(on: bool = True) -> None:
    """Whether first launches from now on go without the check."""
    global _skipped
    _skipped = on


def ensure(device: torch.device, backend: str = "triton") -> None:
    """Runs the backend's check unless this process has done so for ``device``, is doing so, or was told not to.

    Forward passes come first, so it never starts in autograd's thread, which its own backward passes need.

    Raises:
        SelfCheckError: what is wrong, by how much, and how much is allowed.
    """
    check = (device, backend)
    if check in _checked or _skipped or os.environ.get("HIVE_SKIP_SELFCHECK") == "1":
        return
    with _lock:
        if check in _checked:
            return
        _checked.add(check)  # first, since the check's own launches come through here
        failures: list[BaseException] = []

        def work() -> None:
            try:
                with torch.cuda.device(device):
                    run(device, backend)
            except BaseException as error:
                failures.append(error)

        # In a thread of its own neither the caller's autocast and grad mode nor a dispatch mode takes part.
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failures:
            _checked.discard(check)
            raise failures[0]


def run(device: torch.device | str, backend: str = "triton") -> list[tuple[str, torch.dtype, Result]]:
    """Every operation that ``backend`` has kernels for, in the dtypes that run there; all results, if they pass.

    Raises:
        SelfCheckError: the operation, dtype and result that fail, with the error and what is allowed.
    """
    device = torch.empty(0, device=device).device  # with its index, as tensors carry it
    _checked.add((device, backend))
    results = []
    for case in cases():
        operation = case.name.partition(",")[0]
        served = SERVED_BY[operation][backend] == backend and case.backend in ("", backend)
        for dtype in _DTYPES[backend, device.type] if served else ():
            generator = torch.Generator().manual_seed(0)
            tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in case.shapes]
            for result in measure(case.operation, [x.to(device) for x in tensors], dtype, backend):
                if not result.passes:
                    raise SelfCheckError(
                        f"{case.name} is wrong on {_name(device)}: {result.name} in {dtype} is {result.error:.3g} from "
                        f"the fp64 reference, {result.allowed:.3g} is allowed. Use backend 'torch', and report it with "
                        f"the versions of torch and {backend}; HIVE_SKIP_SELFCHECK=1 goes on regardless"
                    )
                results.append((case.name, dtype, result))
    return results


def cases() -> Iterator[Case]:
    """Small, but with more than one tile, a ragged edge and an empty sample."""
    offsets = cu_seqlens([37, 0, 90, 3])

    def attention(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
        return cross_attention(q, k, v, offsets.to(q.device), max_seqlen_q=90, backend=backend)

    yield Case("cross_attention", attention, ((130, 6, 64), (4, 145, 2, 64), (4, 145, 2, 64)))
    wide = ((130, 2, 128), (4, 70, 1, 128), (4, 70, 1, 128))
    yield Case("cross_attention, wide heads", attention, wide, "cuda")

    def captions(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
        return cross_attention(q, k, v, cu_seqlens([9, 0, 5], q.device), max_seqlen_q=9, backend=backend)

    yield Case("cross_attention, short texts", captions, ((14, 6, 64), (3, 145, 2, 64), (3, 145, 2, 64)), "cuda")

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

    def projector(x: Tensor, *parameters: Tensor, backend: str) -> Tensor:
        return residual_projector(x, *parameters, backend=backend)

    hidden = ((2, 80), (2, 80), (2, 80, 96), (2, 96), (2, 96, 96), (2, 96))
    yield Case("residual_projector", projector, ((2, 70, 80), *hidden, (2, 80, 96), (2, 96)))
    square = ((2, 96), (2, 96), (2, 96, 96), (2, 96), (2, 96, 96), (2, 96))
    yield Case("residual_projector, identity skip", projector, ((2, 70, 96), *square))
    yield Case("gated_residual", gated_residual, ((70, 96), (70, 96), (1,)))


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"


def main(arguments: list[str]) -> None:
    if len(arguments) > 1 or not set(arguments) <= {"triton", "cuda"}:
        raise SystemExit(f"arguments are {' '.join(arguments)}; allowed: triton or cuda")
    backend = arguments[0] if arguments else "triton"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reason = reason_unavailable(backend, device)
    if reason is not None:
        raise SystemExit(f"nothing to check on this machine: {reason}")
    try:
        results = run(device, backend)
    except SelfCheckError as error:
        raise SystemExit(str(error)) from None
    for name, dtype, result in results:
        print(f"{name:36}{dtype!s:16}{result.name:12}{result.error:.2e} of {result.allowed:.2e}")
    print(f"{len(results)} results on {_name(device)} within the tolerance")


if __name__ == "__main__":
    from hive_kernels import selfcheck  # not this copy of it, which launches would not know

    selfcheck.main(sys.argv[1:])
