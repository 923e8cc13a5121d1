"""Which queries the attention kernels of a backend support."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hive_kernels.validation import invalid


class Limits(NamedTuple):
    """The dtypes and head sizes that there are kernels for."""

    dtypes: tuple[torch.dtype, ...]
    head_sizes: str
    """The allowed ones in words, as "64 or 128"."""
    allows: Callable[[int], bool]
    """Whether heads of this size are supported."""

    def check(self, q: Tensor, backend: str) -> None:
        """Raises ValueError where the kernels of ``backend`` don't support queries [T, Hq, D]."""
        if q.dtype not in self.dtypes:
            raise invalid("q.dtype", q.dtype, f"{', '.join(map(str, self.dtypes))} under backend '{backend}'")
        if not self.allows(q.shape[2]):
            raise invalid("q.shape[2]", q.shape[2], f"{self.head_sizes} under backend '{backend}'")
