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
NAMESPACE = native.LIBRARY.ns

operators.define(native.LIBRARY)


def check_served(q: Tensor) -> None:
    """The dtypes and heads that there are kernels for, and once on a device that they are right there."""
    if q.dtype not in DTYPES:
        raise invalid("q.dtype", q.dtype, f"{', '.join(map(str, DTYPES))} under backend 'cuda'")
    if q.shape[2] not in HEAD_DIMS:
        raise invalid("q.shape[2]", q.shape[2], f"{' or '.join(map(str, HEAD_DIMS))} under backend 'cuda'")
    native.ready(q.device)
