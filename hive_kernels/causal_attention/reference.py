"""The definition: one sample after the other, plain products, any floating dtype."""

from itertools import pairwise

import torch
from torch import Tensor


def causal_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """q [T, Hq, D], k, v [T, Hkv, D] -> [T, Hq, D]. Softmax in fp32 or above."""
    groups = q.shape[1] // k.shape[1]
    offsets = cu_seqlens.tolist()
    outputs = [q[:0]]
    for start, end in pairwise(offsets):
        queries = q[start:end].transpose(0, 1)  # [Hq, L, D]
        keys = k[start:end].repeat_interleave(groups, 1).transpose(0, 1)
        values = v[start:end].repeat_interleave(groups, 1).transpose(0, 1)
        scores = (queries @ keys.transpose(1, 2)).to(torch.promote_types(q.dtype, torch.float32)) * scale
        future = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        outputs.append((weights.to(q.dtype) @ values).transpose(0, 1))
    return torch.cat(outputs)
