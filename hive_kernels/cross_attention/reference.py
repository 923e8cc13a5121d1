"""The definition: one sample after the other, plain products, any floating dtype."""

from itertools import pairwise

import torch
from torch import Tensor


def cross_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """q [T, Hq, D], k, v [B, N, Hkv, D] or packed [Tk, Hkv, D] -> out [T, Hq, D], lse [T, Hq].

    Softmax and lse in fp32 or above.
    """
    groups = q.shape[1] // k.shape[-2]
    wide = torch.promote_types(q.dtype, torch.float32)
    offsets = cu_seqlens_q.tolist()
    offsets_k = None if cu_seqlens_k is None else cu_seqlens_k.tolist()
    outputs, sums = [q[:0]], [q[:0, :, 0].to(wide)]
    for i, (start, end) in enumerate(pairwise(offsets)):
        image = i if offsets_k is None else slice(offsets_k[i], offsets_k[i + 1])
        queries = q[start:end].transpose(0, 1)  # [Hq, L, D]
        keys = k[image].repeat_interleave(groups, 1).transpose(0, 1)  # [Hq, N, D]
        values = v[image].repeat_interleave(groups, 1).transpose(0, 1)
        scores = (queries @ keys.transpose(1, 2)).to(wide) * scale
        # With no key the sum over none is 0: out = 0, and log 0 = -inf.
        outputs.append((scores.softmax(-1).to(q.dtype) @ values).transpose(0, 1))
        sums.append(scores.logsumexp(-1).transpose(0, 1))
    return torch.cat(outputs), torch.cat(sums)
