"""What the package needs to know about a backend."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from hive_kernels.attention.limits import Limits


@dataclass(frozen=True)
class Backend:
    """One way to compute the operations."""

    name: str
    reason_unavailable: Callable[[str], str | None]
    """From a device's type, as "cuda": why the backend can't run there now, or None."""
    leaves_to: str = "torch"
    """The backend that computes the operations for which this one has no function."""
    has_run_on_a_gpu: bool = True
    """Whether a result in benchmarks/results/ shows it."""
    attention: Limits | None = None
    """The queries that its attention supports; None means all."""
    checked: Mapping[str, tuple[torch.dtype, ...]] = field(default_factory=dict)
    """By a device's type, the dtypes in which hive_kernels.selfcheck compares its kernels with the reference.

    Empty for a backend without kernels in this package.
    """
