"""The inputs of an attention operator as the kernels take them, and the launch sizes that follow from their shapes."""

from math import e, log2
from typing import Any, NamedTuple

from torch import Tensor

from hive_kernels.attention import tiles
from hive_kernels.attention.tiles import Tile
from hive_kernels.launch import capability

LOG2_E = log2(e)


class Problem(NamedTuple):
    """The inputs of one attention; their last dimensions are contiguous.

    q [T, Hq, D]; k, v [B, N, Hkv, D] or packed [Tk, Hkv, D]; of the joint operation also k_text, v_text [T, Hkv, D].
    ``longest`` bounds the tokens of a sample.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    k_text: Tensor | None
    v_text: Tensor | None
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor | None
    scale: float
    longest: int

    @classmethod
    def of(cls, q: Tensor, *inputs: Any) -> "Problem":
        """The problem of an operator's inputs, in its order; tensors that the kernels can't address are copied."""
        *keys_values, cu_q, cu_k, scale, longest = inputs
        *text, k, v = (addressable(x) for x in keys_values)
        k_text, v_text = text or (None, None)
        cu_q, cu_k = cu_q.contiguous(), None if cu_k is None else cu_k.contiguous()
        return cls(addressable(q), k, v, k_text, v_text, cu_q, cu_k, scale, longest)

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.q.shape[1] // self.k.shape[-2]

    @property
    def batch(self) -> int:
        """Samples."""
        return self.cu_seqlens_q.shape[0] - 1

    @property
    def keys(self) -> int:
        """Keys of each image, or of all packed ones."""
        return self.k.shape[-3]

    @property
    def rows(self) -> int:
        """A bound on the packed rows of a sample."""
        return min(self.longest, self.q.shape[0]) * self.group

    def tile(self, role: str) -> Tile:
        """The tile of the kernel ``role``, one of tiles.ROLES."""
        return tiles.lookup(role, capability(self.q.device), self.q.dtype, self.q.shape[2], self.rows)

    def row_grid(self, rows: int) -> tuple[int, int]:
        """The grid of a kernel over rows: slots of ``rows`` rows as addressing.locate has them, and key heads."""
        return self.q.shape[0] * self.group // rows + self.batch, self.k.shape[-2]

    def key_strides(self) -> tuple[int, ...]:
        """(sample, token, head) of k, then of v."""
        packed = self.k.dim() == 3
        return tuple(s for x in (self.k, self.v) for s in ((0,) if packed else ()) + x.stride()[:-1])

    def text_strides(self) -> tuple[int, ...]:
        """(token, head) of k_text, then of v_text."""
        if self.k_text is None or self.v_text is None:
            return 0, 0, 0, 0
        return self.k_text.stride()[:2] + self.v_text.stride()[:2]

    def sizes(self, tile: Tile) -> dict[str, int]:
        """The constants that all kernels take."""
        dim = self.q.shape[2]
        block = tiles.block_d(dim)
        return {"GROUP": self.group, "HEAD_DIM": dim, "BLOCK_D": block, "BLOCK_M": tile.rows, "BLOCK_N": tile.keys}

    def even(self, tile: Tile) -> bool:
        """Whether no key tile has a masked tail."""
        return self.cu_seqlens_k is None and self.keys % tile.keys == 0


def addressable(x: Tensor) -> Tensor:
    """``x``, or a copy if a head isn't contiguous or offsets within a tile may not fit 32 bits."""
    near = all(stride < 1 << 23 for stride in x.stride()[-3:])
    return x if x.stride(-1) == 1 and near else x.contiguous()
