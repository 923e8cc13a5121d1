"""Packed batches for the tests of the attention operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hive_kernels import cross_attention, joint_attention
from hive_kernels.testing import assert_accurate, cu_seqlens, poisoned_allocations, with_gradients
from tests.support.kernel_backends import Kernels

Case = tuple[Callable[..., Tensor], list[Tensor]]
"""An operation over these samples, and its inputs."""


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def queries(*shape: int) -> Tensor:
    """Halved: over few rows, one whose softmax is almost one-hot would decide by its luck what the fp32 rule allows."""
    return randn(*shape) / 2


def image_layout(samples: int, images: int | list[int]) -> tuple[tuple[int, ...], Tensor | None]:
    """The leading sizes of the image's keys, and their offsets where they are packed.

    ``images`` is one number of visual tokens, or a list of them for packed keys.
    """
    if isinstance(images, int):
        return (samples, images), None
    return (sum(images),), cu_seqlens(images)


def cross(texts: list[int], images: int | list[int], heads: int, group: int, dim: int, **bounds: Any) -> Case:
    rows, offsets_k = image_layout(len(texts), images)
    offsets, keys = cu_seqlens(texts), (*rows, heads, dim)

    def run(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
        packed = None if offsets_k is None else offsets_k.to(q.device)
        return cross_attention(q, k, v, offsets.to(q.device), cu_seqlens_k=packed, backend=backend, **bounds)

    return run, [queries(sum(texts), heads * group, dim), randn(*keys, seed=1), randn(*keys, seed=2)]


def joint(texts: list[int], images: int | list[int], heads: int, group: int, dim: int, **bounds: Any) -> Case:
    rows, offsets_k = image_layout(len(texts), images)
    offsets, keys = cu_seqlens(texts), (*rows, heads, dim)

    def run(q: Tensor, k_text: Tensor, v_text: Tensor, k_image: Tensor, v_image: Tensor, backend: str) -> Tensor:
        packed = None if offsets_k is None else offsets_k.to(q.device)
        image = (k_image, v_image, offsets.to(q.device))
        return joint_attention(q, k_text, v_text, *image, cu_seqlens_image=packed, backend=backend, **bounds)

    shapes = (*[(sum(texts), heads, dim)] * 2, keys, keys)
    tensors = [randn(*shape, seed=i + 1) for i, shape in enumerate(shapes)]
    return run, [queries(sum(texts), heads * group, dim), *tensors]


def check(case: Case, dtype: torch.dtype, kernels: Kernels) -> None:
    """The backend keeps the tolerance rule, and writes every element it returns."""
    run, tensors = case
    with poisoned_allocations():
        assert_accurate(run, [x.to(kernels.device) for x in tensors], dtype, kernels.name)


def backward_twice(case: Case, dtype: torch.dtype, kernels: Kernels) -> None:
    """Two runs agree in every bit."""
    run, tensors = case
    tensors = [x.to(kernels.device, dtype) for x in tensors]
    first, second = (with_gradients(run, tensors, kernels.name) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
