"""FLOP formulas that torch's counter lacks: it knows the GPU attention kernels but counts a CPU's SDPA as nothing."""

from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula


def _forward(q: Any, k: Any, *args: Any, **kwargs: Any) -> int:
    """Two products of [Lq, D] x [D, Lk] a query head; causal calls count in full, as in torch's own formulas."""
    batch, heads, length, dim = q
    return 4 * batch * heads * length * k[2] * dim


def _backward(grad_out: Any, q: Any, k: Any, *args: Any, **kwargs: Any) -> int:
    """Five products: the scores again, dP, dV, dQ, dK."""
    return _forward(q, k) * 5 // 2


def register() -> None:
    """Idempotent, and leaves a formula alone that torch or another package has registered."""
    for name, formula in (
        ("_scaled_dot_product_flash_attention_for_cpu", _forward),
        ("_scaled_dot_product_flash_attention_for_cpu_backward", _backward),
    ):
        operator = getattr(torch.ops.aten, name)
        if operator not in flop_registry:
            register_flop_formula(operator)(formula)
