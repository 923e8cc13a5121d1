"""What a test of an operation needs: the tolerance rule, and random packed batches.

The rule: an output or gradient is right when its error against the fp64 reference is at most twice the error of the
reference in the same dtype, plus rounding: error <= 2 * (reference_error + eps * max|truth|). The maximum is taken over
the output and all gradients: a gradient that is exactly zero, as a query's over a single key, is a difference of terms
as large as the others.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

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
    """The output, then the gradient of every tensor under one random cotangent, the same for every dtype."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    out = operation(*leaves, backend=backend)
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent, materialize_grads=True)]


def assert_accurate(operation: Operation, tensors: Sequence[Tensor], dtype: torch.dtype, backend: str) -> None:
    """The rule for the output and every gradient.

    Args:
        operation: called as ``operation(*tensors, backend=...)``, returns one tensor.
        tensors: its floating inputs; rounded to ``dtype`` first, so that all runs start from the same values.
        dtype: what ``backend`` runs in.
        backend: what is tested.

    Raises:
        AssertionError: says which result is off, by how much, and how much is allowed.
    """
    rounded = [x.to(dtype) for x in tensors]
    truth = with_gradients(operation, [x.double() for x in rounded], "reference")
    peer = with_gradients(operation, rounded, "reference")
    actual = with_gradients(operation, rounded, backend)
    largest = max(x.abs().max().item() for x in truth if x.numel())
    for i, (exact, same_dtype, result) in enumerate(zip(truth, peer, actual, strict=True)):
        name = "output" if i == 0 else f"gradient {i - 1}"
        assert result.dtype == same_dtype.dtype, f"{name}: {result.dtype}, not {same_dtype.dtype}"
        allowed = 2 * (_distance(same_dtype, exact) + torch.finfo(result.dtype).eps * largest)
        error = _distance(result, exact)
        # Written so that a NaN fails.
        assert error <= allowed, f"{name} in {dtype}: error {error:.3g} against fp64, allowed {allowed:.3g}"


def _distance(a: Tensor, b: Tensor) -> float:
    return (a.double() - b).abs().max().item() if a.numel() else 0.0
