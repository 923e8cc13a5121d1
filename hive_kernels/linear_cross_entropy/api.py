"""Next-token cross-entropy of a linear head."""

import torch
from torch import Tensor

from hive_kernels import backends
from hive_kernels.linear_cross_entropy.reference import IGNORED
from hive_kernels.validation import check_float, check_targets, check_tensor, invalid, under_autocast


def linear_cross_entropy(h: Tensor, w: Tensor, targets: Tensor, *, backend: str = "auto") -> Tensor:
    """The sum over rows of -log softmax(h w^T)[target]; a caller divides by its global number of supervised tokens.

    Args:
        h: hidden states [T, D], row t predicting targets[t]; fp16, bf16, fp32 or fp64.
        w: output embedding [V, D], same dtype. No gradient is computed for it unless it requires one.
        targets: int64 [T], in [0, V), or -100 for a row that doesn't count. It is better to leave such rows out: they
            cost as much as others, because dropping them here would need their number on the host.
        backend: see :func:`hive_kernels.resolve`.

    Returns:
        A scalar, fp32 (fp64 for fp64). Products run in h's dtype, or autocast's; softmax and loss in the scalar's.

    Raises:
        ValueError: a shape, dtype or device doesn't fit; under hive_kernels.debug(True) a target out of range.
        RuntimeError: a target is out of range; on a GPU an assertion of the device.
    """
    check_tensor("h", h, ("T", "D"), h.device)
    check_tensor("w", w, ("V", h.shape[1]), h.device)
    check_tensor("targets", targets, (h.shape[0],), h.device)
    if targets.dtype != torch.int64:
        raise invalid("targets.dtype", targets.dtype, "torch.int64")
    check_targets("targets", targets, w.shape[0], IGNORED)
    h, w = under_autocast(h, w)
    check_float("h", h)
    check_float("w", w, h.dtype)
    return backends.LINEAR_CROSS_ENTROPY.function(backend, h.device)(h, w, targets)
