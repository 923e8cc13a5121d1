"""Our Triton kernels behind the operators ``hive_kernels::cross_attention`` and its backward.

Memory of the backward beyond its results: delta, fp32 [T, Hq].
"""

import torch
from torch import Tensor

from hive_kernels.cross_attention import operators
from hive_kernels.cross_attention.tiles import MAX_HEAD_DIM
from hive_kernels.launch import DTYPES
from hive_kernels.validation import invalid

NAMESPACE = "hive_kernels"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
operators.define(_LIBRARY)


def check_served(q: Tensor) -> None:
    """The dtypes that the kernels have tiles for, and a head that is one tile wide."""
    if q.dtype not in DTYPES:
        raise invalid("q.dtype", q.dtype, f"{', '.join(map(str, DTYPES))} under backend 'triton'")
    if q.shape[2] > MAX_HEAD_DIM:
        raise invalid("q.shape[2]", q.shape[2], f"at most {MAX_HEAD_DIM} under backend 'triton'")


def _forward(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor | None, scale: float, longest: int
) -> tuple[Tensor, Tensor]:
    from hive_kernels.cross_attention import triton_kernels

    return triton_kernels.forward(triton_kernels.Problem.of(q, k, v, None, None, cu_q, cu_k, scale, longest))


def _backward(
    grad: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor | None,
    scale: float, longest: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    from hive_kernels.cross_attention import triton_kernels

    problem = triton_kernels.Problem.of(q, k, v, None, None, cu_q, cu_k, scale, longest)
    return triton_kernels.backward(problem, out, lse, grad)


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("cross_attention", _forward, _device)
    _LIBRARY.impl("cross_attention_backward", _backward, _device)
