"""Pads packed text [T, ...] to [B, L, ...] and packs it again, by index arithmetic alone.

Shapes depend on host integers only, so this runs on meta and fake tensors and never synchronises a GPU.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hive_kernels.validation import invalid


def longest(argument: str, cu_seqlens: Tensor) -> int:
    """The number of tokens of the longest sample, for a caller that left out the bound ``argument``.

    Synchronises a GPU. Raises ValueError on the meta device.
    """
    if cu_seqlens.is_meta:
        raise invalid(argument, None, "an int on the meta device, where cu_seqlens holds no values")
    return int(cu_seqlens.diff().max()) if cu_seqlens.shape[0] > 1 else 0


def sample_of_token(cu_seqlens: Tensor, total: int) -> Tensor:
    """The sample that each packed token belongs to, int64 [T]. Samples may be empty."""
    token = torch.arange(total, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens, token, right=True) - 1


@dataclass(frozen=True)
class PaddedLayout:
    """The positions of packed tokens in a right-padded batch of ``batch`` x ``length``.

    ``rows`` [T] is each token's row in [batch * length]; None when no padding is needed and both layouts are the same.
    """

    batch: int
    length: int
    rows: Tensor | None

    def pad(self, x: Tensor) -> Tensor:
        """[T, ...] -> [batch, length, ...], zeros where there is no token.

        Zeros, not other samples' values: a NaN in one sample then can't reach another one's gradients through 0 * NaN.
        """
        if self.rows is not None:
            x = _Scatter.apply(x, self.rows, self.batch * self.length)
        return x.reshape(self.batch, self.length, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """[batch, length, ...] -> [T, ...]."""
        x = x.reshape(self.batch * self.length, *x.shape[2:])
        return x if self.rows is None else _Gather.apply(x, self.rows)


def padded_layout(cu_seqlens: Tensor, total: int, max_seqlen: int) -> PaddedLayout:
    """The layout of ``total`` packed tokens, at most ``max_seqlen`` a sample."""
    batch = cu_seqlens.shape[0] - 1
    if total == batch * max_seqlen:  # no sample is longer than max_seqlen, so every one has exactly that many tokens
        return PaddedLayout(batch, max_seqlen, None)
    sample = sample_of_token(cu_seqlens, total)
    # From a packed row to the padded row, the same step for a whole sample.
    shift = torch.arange(batch, device=cu_seqlens.device) * max_seqlen - cu_seqlens[:-1]
    return PaddedLayout(batch, max_seqlen, torch.arange(total, device=cu_seqlens.device) + shift[sample])


# Each is the other's derivative. Written out because autograd's own derivative of index_select adds row by row, slow on
# a CPU and with atomics on a GPU; rows are distinct here, so a copy does.
class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(rows)
        padded = x.new_zeros(size, *x.shape[1:]).index_copy_(0, rows, x)
        return padded.view_as(padded)  # compiled by torch 2.11, what an in-place operation returns gets no gradient

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return _Gather.apply(grads[0], rows), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size = x.shape[0]
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return _Scatter.apply(grads[0], rows, ctx.size), None
