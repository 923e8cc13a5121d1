"""Batched GEMMs over the layers, which start from biases and the skip as their accumulators."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hive_kernels.projector.parameters import Parameters
from hive_kernels.validation import without_autocast


def residual_projector(
    x: Tensor, parameters: Parameters, eps: float, gemm_dtype: torch.dtype, recompute: bool
) -> Tensor:
    """x [S, M, Dv] -> [S, M, D] in ``gemm_dtype``; ``recompute`` keeps only the inputs for the backward pass."""
    if recompute:
        return checkpoint(_compute, x, parameters, eps, gemm_dtype, use_reentrant=False, preserve_rng_state=False)
    return _compute(x, parameters, eps, gemm_dtype)


def _compute(x: Tensor, parameters: Parameters, eps: float, gemm_dtype: torch.dtype) -> Tensor:
    """x [S, M, Dv] -> [S, M, D] in ``gemm_dtype``, with LayerNorm's weight and bias folded into the maps after it.

    They differ by layer, which F.layer_norm can't do in one call: n w + b = z (ln_w w) + (b + ln_b w) with z the
    normalised x. Folding costs one pass over each weight matrix. Applying them to z would cost three passes over its
    M >> Dv rows and one more saved copy.
    """
    ln_w, ln_b, w1, b1, w2, b2, w_skip, b_skip = parameters
    with without_autocast(x.device):
        z = F.layer_norm(x, x.shape[-1:], eps=eps).to(gemm_dtype)

        def linear(w: Tensor, b: Tensor) -> Tensor:
            bias = torch.baddbmm(b.unsqueeze(1), ln_b.unsqueeze(1).to(w.dtype), w)  # [S, 1, D]
            return torch.baddbmm(bias.to(gemm_dtype), z, (ln_w.unsqueeze(2) * w).to(gemm_dtype))

        if w_skip is None or b_skip is None:
            skip = torch.addcmul((ln_b + b2).unsqueeze(1), z, ln_w.unsqueeze(1)).to(gemm_dtype)
        else:
            skip = linear(w_skip, b_skip + b2)
        return torch.baddbmm(skip, F.gelu(linear(w1, b1)), w2.to(gemm_dtype))
