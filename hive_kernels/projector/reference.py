"""The definition: layer by layer, any floating dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hive_kernels.projector.parameters import Parameters


def residual_projector(
    x: Tensor, parameters: Parameters, eps: float, gemm_dtype: torch.dtype, recompute: bool
) -> Tensor:
    """x [S, M, Dv] -> [S, M, D] in ``gemm_dtype``; ``recompute`` keeps only the inputs for the backward pass."""
    if recompute:
        return checkpoint(_compute, x, parameters, eps, gemm_dtype, use_reentrant=False, preserve_rng_state=False)
    return _compute(x, parameters, eps, gemm_dtype)


def _compute(x: Tensor, parameters: Parameters, eps: float, gemm_dtype: torch.dtype) -> Tensor:
    """x [S, M, Dv] -> [S, M, D] in ``gemm_dtype``; under autocast torch casts the products' inputs."""
    ln_w, ln_b, w1, b1, w2, b2, w_skip, b_skip = parameters
    outputs = []
    for i in range(x.shape[0]):
        n = F.layer_norm(x[i], x.shape[-1:], ln_w[i].to(x.dtype), ln_b[i].to(x.dtype), eps)
        skip = n if w_skip is None or b_skip is None else n @ w_skip[i] + b_skip[i]
        outputs.append(skip + F.gelu(n @ w1[i] + b1[i]) @ w2[i] + b2[i])
    return torch.stack(outputs).to(gemm_dtype)
