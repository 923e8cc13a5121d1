"""What a test of an operation needs: the tolerance rule, and random packed batches.

The rule: an output or gradient is right when its error against the fp64 reference is at most twice the error of the
reference in the same dtype, plus rounding: error <= 2 * (reference_error + eps * max|truth|). The maximum is taken over
the output and all gradients: a gradient that is exactly zero, as a query's over a single key, is a difference of terms
as large as the others.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

Operation = Callable[..., Tensor]
"""An operation called as ``operation(*tensors, backend=...)``."""


def cu_seqlens(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """int32 [B+1] offsets of samples with these lengths."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def random_lengths(batch: int, longest: int, generator: torch.Generator) -> list[int]:
    """Lengths of ``batch`` samples, 0 to ``longest``; one sample reaches ``longest`` and, in batches, one is empty."""
    lengths = torch.randint(0, longest + 1, (batch,), generator=generator).tolist()
    lengths[0] = longest
    if batch > 1:
        lengths[batch // 2] = 0
    return lengths


def with_gradients(operation: Operation, tensors: Sequence[Tensor], backend: str, seed: int = 0) -> list[Tensor]:
    """The output, then the gradient of every tensor under a random cotangent, the same for every dtype.

    Only the output if the operation is not differentiable.
    """
    leaves = [x.detach().requires_grad_() for x in tensors]  # no copies: a view stays one
    out = operation(*leaves, backend=backend)
    if not out.requires_grad:
        return [out]
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent, materialize_grads=True)]


@dataclass(frozen=True)
class Result:
    """The error of one output or gradient, and what the rule allows."""

    name: str
    dtype: torch.dtype
    expected_dtype: torch.dtype
    error: float
    allowed: float

    @property
    def passes(self) -> bool:
        return self.dtype == self.expected_dtype and self.error <= self.allowed  # written so that a NaN fails


def measure(
    operation: Operation,
    tensors: Sequence[Tensor],
    dtype: torch.dtype,
    backend: str,
    compiled: Operation | None = None,
) -> list[Result]:
    """The results of ``backend``'s output and gradients, compared with the fp64 reference.

    Args:
        operation: called as ``operation(*tensors, backend=...)``, returns one tensor.
        tensors: its floating inputs; rounded to ``dtype`` first, so that all runs start from the same values.
        dtype: what ``backend`` runs in.
        backend: what is tested.
        compiled: ``operation`` compiled, if that is tested; truth and reference are never compiled.
    """
    rounded = [x.to(dtype) for x in tensors]
    truth = with_gradients(operation, [x.double() for x in rounded], "reference")
    peer = with_gradients(operation, rounded, "reference")
    actual = with_gradients(compiled or operation, rounded, backend)
    largest = max(x.abs().max().item() for x in truth if x.numel())
    results = []
    for i, (exact, same_dtype, result) in enumerate(zip(truth, peer, actual, strict=True)):
        allowed = 2 * (_distance(same_dtype, exact) + torch.finfo(result.dtype).eps * largest)
        name = "output" if i == 0 else f"gradient {i - 1}"
        results.append(Result(name, result.dtype, same_dtype.dtype, _distance(result, exact), allowed))
    return results


def assert_accurate(
    operation: Operation,
    tensors: Sequence[Tensor],
    dtype: torch.dtype,
    backend: str,
    compiled: Operation | None = None,
) -> None:
    """Checks the output and every gradient by the rule; arguments as in :func:`measure`.

    Raises:
        AssertionError: a result breaks the rule; says which, its error and what is allowed.
    """
    for r in measure(operation, tensors, dtype, backend, compiled):
        assert r.dtype == r.expected_dtype, f"{r.name}: {r.dtype}, not {r.expected_dtype}"
        assert r.passes, f"{r.name} in {dtype}: error {r.error:.3g} against fp64, allowed {r.allowed:.3g}"


@contextmanager
def poisoned_allocations() -> Iterator[None]:
    """Inside, torch.empty, empty_like and empty_strided give NaN, so that an element that isn't written is noticed.

    They do so in the caller's thread and in autograd's, since the functions themselves are replaced.
    """
    originals = {name: getattr(torch, name) for name in ("empty", "empty_like", "empty_strided")}

    def poisoned(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocate(*args: Any, **kwargs: Any) -> Tensor:
            out = original(*args, **kwargs)
            if out.is_floating_point():
                out.detach().fill_(float("nan"))  # detached, because out may be a leaf that requires a gradient
            return out

        return allocate

    for name, original in originals.items():
        setattr(torch, name, poisoned(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


def saved_bytes(run: Callable[[], Tensor], known: Sequence[Tensor] = ()) -> int:
    """Bytes that ``run`` keeps for its backward pass, each storage once, without those of ``known`` (parameters)."""
    parameters = {x.untyped_storage().data_ptr() for x in known}
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = run()  # kept until the end, so that no storage is counted twice under a reused address
    del out
    return sum(storages.values())


def _distance(a: Tensor, b: Tensor) -> float:
    return (a.double() - b).abs().max().item() if a.numel() else 0.0
