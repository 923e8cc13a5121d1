"""FlashAttention-2 on the packed batch where torch has it, else SDPA on a padded one."""

import torch.nn.functional as F
from torch import Tensor

from hive_kernels import varlen
from hive_kernels.packing import padded_layout


def causal_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """q [T, Hq, D], k, v [T, Hkv, D] -> [T, Hq, D]."""
    if varlen.usable(q, k):
        return varlen.attention(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, causal=True, scale=scale)
    # Padding is on the right, so under a causal mask no token ever sees it.
    layout = padded_layout(cu_seqlens, q.shape[0], max_seqlen)
    queries, keys, values = (layout.pad(x).transpose(1, 2) for x in (q, k, v))  # [B, H, L, D]
    out = F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return layout.unpad(out.transpose(1, 2))
