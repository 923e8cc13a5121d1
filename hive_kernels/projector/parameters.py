"""The weights of a residual projector, as every backend takes them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Parameters(NamedTuple):
    """The weights of S layers; matrices are stored input by output. A skip of None is the identity."""

    ln_w: Tensor
    """[S, Dv]: LayerNorm's weight, with bias ln_b [S, Dv]."""
    ln_b: Tensor
    w1: Tensor
    """[S, Dv, D]: the hidden layer's weight, with bias b1 [S, D]."""
    b1: Tensor
    w2: Tensor
    """[S, D, D]: the output layer's weight, with bias b2 [S, D]."""
    b2: Tensor
    w_skip: Tensor | None
    """[S, Dv, D]: the skip's weight, with bias b_skip [S, D]."""
    b_skip: Tensor | None

    def cast(self, dtype: torch.dtype) -> "Parameters":
        """Contiguous parameters, the matrices in the products' ``dtype``; vectors keep theirs."""
        w1, w2 = self.w1.to(dtype).contiguous(), self.w2.to(dtype).contiguous()
        w_skip = None if self.w_skip is None else self.w_skip.to(dtype).contiguous()
        vectors = (self.ln_w.contiguous(), self.ln_b.contiguous())
        return Parameters(*vectors, w1, self.b1.contiguous(), w2, self.b2.contiguous(), w_skip, self.b_skip)
