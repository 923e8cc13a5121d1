"""Counts a step's FLOPs with torch's counter; causal attention counts only the pairs that it computes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Counted:
    """FLOPs of a forward and backward pass."""

    tower: float
    everything: float

    @property
    def language_side(self) -> float:
        """Projector, fusion, language model and head."""
        return self.everything - self.tower


class StepCounter(FlopCounterMode):
    """Counts the FLOPs of what runs inside the block, on CPU tensors or fake ones."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=_FORMULAS)

    def counted(self) -> Counted:
        """The FLOPs counted since the block began; the tower is a module called `tower` or `vision_tower`."""
        counts = self.get_flop_counts()
        tower = next(name for name in counts if name.rsplit(".", 1)[-1] in ("tower", "vision_tower"))
        return Counted(float(sum(counts[tower].values())), float(sum(counts["Global"].values())))


def _forward_flops(q: Any, k: Any, v: Any, dropout: float = 0.0, is_causal: bool = False, **kwargs: Any) -> int:
    """Two products over query-key pairs: a causal query at i sees i + 1 keys, a masked one computes them all."""
    batch, heads, length, dim = q
    pairs = length * (length + 1) // 2 if is_causal else length * k[2]
    return 4 * batch * heads * pairs * dim


def _backward_flops(
    grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, dropout: float, is_causal: bool, **kwargs: Any
) -> int:
    """Five products: the scores again, dP, dV, dQ, dK."""
    return _forward_flops(q, k, v, dropout, is_causal) * 5 // 2


_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops,
}
