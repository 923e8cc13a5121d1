"""SDPA on padded text, image and text keys concatenated, with a mask."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hive_kernels.cross_attention.torch_backend import Segments, padded_keys
from hive_kernels.packing import padded_layout


def joint_attention(
    q: Tensor,
    k_text: Tensor,
    v_text: Tensor,
    k_image: Tensor,
    v_image: Tensor,
    texts: Segments,
    images: Segments | None,
    scale: float,
) -> Tensor:
    """As reference.joint_attention, of texts and images that are Segments."""
    layout = padded_layout(texts.cu_seqlens, q.shape[0], texts.longest)
    keys, exists = padded_keys(k_image, images)  # [B, Hkv, N, D], [B, 1, 1, N]
    values, _ = padded_keys(v_image, images)
    keys = torch.cat([keys, layout.pad(k_text).transpose(1, 2)], 2)
    values = torch.cat([values, layout.pad(v_text).transpose(1, 2)], 2)
    # Text is padded on the right, so under the causal half of the mask no token sees padding.
    visual, length = keys.shape[2] - texts.longest, texts.longest
    mask = torch.ones(length, visual + length, dtype=torch.bool, device=q.device).tril(visual)[None, None]
    if exists is not None:
        mask = mask & F.pad(exists, (0, length), value=True)
    queries = layout.pad(q).transpose(1, 2)  # [B, Hq, L, D]
    out = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k_text.shape[1]
    )
    return layout.unpad(out.transpose(1, 2))
