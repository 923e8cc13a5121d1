"""Our CUDA C++ kernels behind the operators ``hive_kernels_cuda::gated_residual`` and its backward (csrc/)."""

import torch
from torch import Tensor

from hive_kernels import native
from hive_kernels.gated_residual import ops
from hive_kernels.validation import invalid

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

ops.define(native.LIBRARY)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """As reference.gated_residual."""
    for name, tensor in (("x", x), ("y", y), ("gate", gate)):
        if tensor.dtype not in DTYPES:
            raise invalid(f"{name}.dtype", tensor.dtype, f"{', '.join(map(str, DTYPES))} under backend 'cuda'")
    native.ready(x.device)
    return ops.gated_residual(native.LIBRARY.ns, x, y, gate)
