"""Our CUDA C++ kernels behind the operators ``hive_kernels_cuda::cross_attention`` and its backward (csrc/).

Memory of the backward beyond its results: none where the packed rows of a text fit one block, 256 for heads of 64 and
64 for heads of 128; otherwise fp32 sums of dK and dV.
"""

import torch
from torch import Tensor

from hive_kernels import native
from hive_kernels.cross_attention import operators
from hive_kernels.validation import invalid

DTYPES = (torch.float16, torch.bfloat16)
HEAD_DIMS = (64, 128)

operators.define(native.LIBRARY)


def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None,
    scale: float,
    longest: int,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """Shapes as in :func:`hive_kernels.cross_attention.operators.cross_attention`."""
    if q.dtype not in DTYPES:
        raise invalid("q.dtype", q.dtype, f"{', '.join(map(str, DTYPES))} under backend 'cuda'")
    if q.shape[2] not in HEAD_DIMS:
        raise invalid("q.shape[2]", q.shape[2], f"{' or '.join(map(str, HEAD_DIMS))} under backend 'cuda'")
    native.ready(q.device)
    return operators.cross_attention(
        native.LIBRARY.ns, q, k, v, cu_seqlens_q, cu_seqlens_k, scale, longest, return_lse
    )
