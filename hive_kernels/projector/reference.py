"""The definition: one layer after the other, any floating dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor


def residual_projector(
    x: Tensor,
    ln_w: Tensor,
    ln_b: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w_skip: Tensor | None,
    b_skip: Tensor | None,
    eps: float,
    gemm_dtype: torch.dtype,
) -> Tensor:
    """x [S, M, Dv] -> [S, M, D]. Under autocast the products below follow it by themselves."""
    outputs = []
    for i in range(x.shape[0]):
        n = F.layer_norm(x[i], x.shape[-1:], ln_w[i].to(x.dtype), ln_b[i].to(x.dtype), eps)
        skip = n if w_skip is None or b_skip is None else n @ w_skip[i] + b_skip[i]
        outputs.append(skip + F.gelu(n @ w1[i] + b1[i]) @ w2[i] + b2[i])
    return torch.stack(outputs).to(gemm_dtype)
