"""The definition, in the wider dtype of x and y."""

import torch
from torch import Tensor


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x, y of one shape, gate of one element -> x's shape and dtype."""
    opening = gate.reshape(()).tanh()  # without a dimension it doesn't widen the result's dtype
    return (x + opening * y.to(torch.promote_types(x.dtype, y.dtype))).to(x.dtype)
