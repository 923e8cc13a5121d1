"""Operations on tensors that have shapes and no values: what a GPU test at full size does, all but its kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hive_kernels.testing import Operation


def check_shapes(operation: Operation, tensors: Sequence[Tensor], dtype: torch.dtype, backend: str) -> None:
    """Output and gradients have the shapes and dtypes that backend `torch` gives them."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # not entered: offsets stay real, so that bounds can be read
    results = []
    for name in (backend, "torch"):
        leaves = [mode.from_tensor(x.to(dtype)).requires_grad_() for x in tensors]
        out = operation(*leaves, backend=name)
        gradients = torch.autograd.grad(out.sum(), leaves) if out.requires_grad else ()
        results.append([(x.shape, x.dtype) for x in (out, *gradients)])
    assert results[0] == results[1]
