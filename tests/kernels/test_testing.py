"""The helpers of hive_kernels.testing notice what they are for."""

import pytest
import torch
from torch import Tensor

from hive_kernels import gated_residual
from hive_kernels.testing import assert_accurate, poisoned_allocations


def test_what_is_not_written_is_nan_and_a_leaf_stays_one():
    with poisoned_allocations():
        leaf = torch.empty(3, requires_grad=True)
        others = [torch.empty_like(leaf), torch.empty_strided((2, 3), (3, 1), dtype=torch.float64)]
        assert torch.empty(2, dtype=torch.int64).shape == (2,)
    assert leaf.is_leaf
    assert leaf.requires_grad
    assert all(x.isnan().all() for x in (leaf, *others))
    assert torch.empty.__name__ == "empty"


def test_a_compiled_gradient_of_zero_breaks_the_rule():
    def without_a_gradient(x: Tensor, y: Tensor, gate: Tensor, backend: str) -> Tensor:
        return gated_residual(x.detach(), y, gate, backend=backend)

    tensors = [torch.ones(2, 3), torch.ones(2, 3), torch.ones(1)]
    assert_accurate(gated_residual, tensors, torch.float32, "torch", compiled=gated_residual)
    with pytest.raises(AssertionError, match=r"gradient 0 in .*: error"):
        assert_accurate(gated_residual, tensors, torch.float32, "torch", compiled=without_a_gradient)
