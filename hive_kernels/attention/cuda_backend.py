"""Cross-attention by our CUDA C++ kernels (csrc/), behind the operators of the namespace ``hive_kernels_cuda``.

Backward needs no memory beyond its results if the packed rows of every text fit one block, 256 rows for heads of 64 and
64 for heads of 128. Otherwise it needs fp32 sums of dK and dV, for as many samples as can have a longer text by the
number of tokens.
"""

import torch
from torch import Tensor

from hive_kernels import native
from hive_kernels.attention import ops
from hive_kernels.attention.limits import Limits

LIMITS = Limits((torch.float16, torch.bfloat16), "64 or 128", lambda size: size in (64, 128))

ops.define(native.LIBRARY, "cross_attention", ops.CROSS)


def cross_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, max_seqlen_q: int | None, cu_seqlens_k: Tensor | None,
    max_seqlen_k: int | None, scale: float, return_lse: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """As reference.cross_attention."""
    LIMITS.check(q, "cuda")
    native.ready(q.device)
    return ops.cross_attention(native.LIBRARY.ns, q, k, v, cu_seqlens_q, max_seqlen_q, cu_seqlens_k, scale, return_lse)
