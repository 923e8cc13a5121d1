"""The definition: one sample after the other, image and text keys concatenated, any floating dtype."""

from itertools import pairwise

import torch
from torch import Tensor


def joint_attention(
    q: Tensor,
    k_text: Tensor,
    v_text: Tensor,
    k_image: Tensor,
    v_image: Tensor,
    cu_seqlens: Tensor,
    cu_seqlens_image: Tensor | None,
    scale: float,
) -> Tensor:
    """q [T, Hq, D], k_text, v_text [T, Hkv, D], k_image, v_image [B, N, Hkv, D] or packed [Tk, Hkv, D] -> [T, Hq, D].

    Softmax in fp32 or above.
    """
    groups = q.shape[1] // k_text.shape[1]
    images = None if cu_seqlens_image is None else cu_seqlens_image.tolist()
    outputs = [q[:0]]
    for i, (start, end) in enumerate(pairwise(cu_seqlens.tolist())):
        image = i if images is None else slice(images[i], images[i + 1])
        queries = q[start:end].transpose(0, 1)  # [Hq, L, D]
        keys = torch.cat([k_image[image], k_text[start:end]]).repeat_interleave(groups, 1).transpose(0, 1)
        values = torch.cat([v_image[image], v_text[start:end]]).repeat_interleave(groups, 1).transpose(0, 1)
        scores = (queries @ keys.transpose(1, 2)).to(torch.promote_types(q.dtype, torch.float32)) * scale
        visual = keys.shape[1] - (end - start)
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(visual + 1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        outputs.append((weights.to(q.dtype) @ values).transpose(0, 1))
    return torch.cat(outputs)
