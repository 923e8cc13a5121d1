"""One call of torch.addcmul."""

import torch
from torch import Tensor


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """As reference.gated_residual."""
    opening = gate.reshape(()).tanh()  # without a dimension it doesn't widen the result's dtype
    return torch.addcmul(x, y, opening).to(x.dtype)
