"""torch's packed FlashAttention-2 (torch.nn.attention.varlen), with one signature for torch 2.11 and later."""

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

_HAS_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters


@cache
def _flash_capable(index: int | None) -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability(index) >= (8, 0)


def usable(q: Tensor, k: Tensor) -> bool:
    """Whether FlashAttention-2 supports these packed tensors: fp16 or bf16, Ampere or later, at least one token."""
    return (
        q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 256
        and q.shape[0] > 0
        and k.shape[0] > 0
        and _flash_capable(q.device.index)
    )


def attention(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *, causal: bool, scale: float
) -> Tensor:
    """softmax(scale q k^T) v: q [T, Hq, D], k, v [Tk, Hkv, D], cu_q, cu_k int32 [B+1] -> [T, Hq, D]."""
    groups = q.shape[1] // k.shape[1]
    options: dict[str, Any] = {}
    if groups > 1 and _HAS_GQA:
        options["enable_gqa"] = True
    elif groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    window = (-1, 0) if causal else (-1, -1)
    out = varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window, **options)
    assert isinstance(out, Tensor)  # a tuple only when the log-sum-exp is requested
    return out
