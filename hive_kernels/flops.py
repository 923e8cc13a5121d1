"""FLOP formulas that torch's counter lacks: it has them for attention on a GPU, but counts a CPU's SDPA as 0."""

from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula


def _forward_flops(q: Any, k: Any, *args: Any, **kwargs: Any) -> int:
    """Two products of [Lq, D] x [D, Lk] per query head; causal calls count in full, as in torch's formulas."""
    batch, heads, length, dim = q
    return 4 * batch * heads * length * k[2] * dim


def _backward_flops(grad_out: Any, q: Any, k: Any, *args: Any, **kwargs: Any) -> int:
    """Five products: the scores again, dP, dV, dQ, dK."""
    return _forward_flops(q, k) * 5 // 2


def register() -> None:
    """Registers the formulas, except where torch or another package has one already; may be called again."""
    for name, formula in (
        ("_scaled_dot_product_flash_attention_for_cpu", _forward_flops),
        ("_scaled_dot_product_flash_attention_for_cpu_backward", _backward_flops),
    ):
        operator = getattr(torch.ops.aten, name)
        if operator not in flop_registry:
            register_flop_formula(operator)(formula)
