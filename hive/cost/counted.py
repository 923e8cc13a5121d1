"""Counts a step's FLOPs with torch's counter; causal attention counts only the pairs that it computes."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode

from hive.profiling import listening


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
    """Counts the FLOPs of what runs inside the block, on CPU tensors or fake ones.

    Parts are told apart by the marks of `hive.profiling`. The counter's own counts by module are wrong in the backward
    pass of a module that also returns hidden states, as the tower of transformers' LLaVA does in some releases.
    """

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=_FORMULAS)
        self._part, self._by_part = "", Counter[str]()
        self._listening = listening(self._begin)

    def __enter__(self) -> Self:
        self._listening.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._listening.__exit__(*exception)

    def counted(self) -> Counted:
        """The FLOPs counted since the block began."""
        self._begin(self._part)
        return Counted(float(self._by_part["tower"]), float(self._by_part.total()))

    def _begin(self, part: str) -> None:
        """Books what was counted since the last mark under the part that it began, and begins `part`."""
        self._by_part[self._part] += self.get_total_flops() - self._by_part.total()
        self._part = part


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
