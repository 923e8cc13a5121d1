"""The weights of a residual projector, as the public function gets them and every backend takes them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Parameters(NamedTuple):
    """Of S layers at once; weights are stored input by output. A skip of None is the identity."""

    ln_w: Tensor
    """[S, Dv], and so ln_b: of the LayerNorm."""
    ln_b: Tensor
    w1: Tensor
    """[S, Dv, D]: the hidden layer's, with bias b1 [S, D]."""
    b1: Tensor
    w2: Tensor
    """[S, D, D]: the output layer's, with bias b2 [S, D]."""
    b2: Tensor
    w_skip: Tensor | None
    """[S, Dv, D]: the skip's, with bias b_skip [S, D]."""
    b_skip: Tensor | None

    def cast(self, dtype: torch.dtype) -> "Parameters":
        """Contiguous, matrices in the products' ``dtype``; what the kernels read as vectors stays as it is."""
        w1, w2 = self.w1.to(dtype).contiguous(), self.w2.to(dtype).contiguous()
        w_skip = None if self.w_skip is None else self.w_skip.to(dtype).contiguous()
        vectors = (self.ln_w.contiguous(), self.ln_b.contiguous())
        return Parameters(*vectors, w1, self.b1.contiguous(), w2, self.b2.contiguous(), w_skip, self.b_skip)
