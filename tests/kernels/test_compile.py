"""torch.compile takes every operation, forward and backward, as one graph, and its results are eager's.

aot_eager traces. Inductor also lowers: it lays memory out by the shapes and strides that our operators' fakes promise.
What it lowers of torch's own operators is left to torch: as C++ that takes half a minute to compile.
"""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hive_kernels as kernels
from hive_kernels.testing import cu_seqlens, with_gradients
from tests.support.attention_cases import randn

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COMPILER = torch._inductor.config.cpp.cxx[1]
needs_compiler = pytest.mark.skipif(not shutil.which(COMPILER), reason=f"Inductor needs a C++ compiler, {COMPILER}")
# What makes C++ fast to run makes it slow to compile: its look at the CPU's vectors imports torch again in a process
# for each kind, and its headers are compiled beforehand for more kernels than come here.
QUICK = torch._inductor.config.patch({"cpp.vec_isa_ok": False, "cpp_cache_precompile_headers": False})

OFFSETS, TOKENS = cu_seqlens([2, 3], DEVICE), torch.tensor([1, 4], device=DEVICE)
LOG_SUMS, TARGETS = torch.ones(5, 4, device=DEVICE), torch.tensor([1, -100, 0, 6, 3], device=DEVICE)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return kernels.causal_attention(q, k, v, OFFSETS, max_seqlen=3, backend=backend)


def cross_attention(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return kernels.cross_attention(q, k, v, OFFSETS, max_seqlen_q=3, backend=backend)


def cross_attention_weights(q: Tensor, k: Tensor, backend: str) -> Tensor:
    return kernels.cross_attention_weights(q, k, LOG_SUMS, OFFSETS, tokens=TOKENS, backend=backend)


def joint_attention(
    q: Tensor, k_text: Tensor, v_text: Tensor, k_image: Tensor, v_image: Tensor, backend: str
) -> Tensor:
    return kernels.joint_attention(q, k_text, v_text, k_image, v_image, OFFSETS, max_seqlen=3, backend=backend)


def linear_cross_entropy(h: Tensor, w: Tensor, backend: str) -> Tensor:
    return kernels.linear_cross_entropy(h, w, TARGETS, backend=backend)


QUERIES, TEXT, IMAGES = (5, 4, 16), (5, 2, 16), (2, 3, 2, 16)
VECTORS, MATRICES = (2, 8), (2, 8, 8)
SHAPES: dict[Callable[..., Tensor], list[tuple[int, ...]]] = {
    causal_attention: [QUERIES, TEXT, TEXT],
    cross_attention: [QUERIES, IMAGES, IMAGES],
    cross_attention_weights: [QUERIES, IMAGES],
    joint_attention: [QUERIES, TEXT, TEXT, IMAGES, IMAGES],
    kernels.gated_residual: [(5, 8), (5, 8), (1,)],
    kernels.residual_projector: [(2, 5, 8), *[VECTORS] * 2, *[MATRICES, VECTORS] * 3],
    linear_cross_entropy: [(5, 8), (7, 8)],
}
OURS = [f for f in SHAPES if f not in (causal_attention, linear_cross_entropy)]  # which have no Triton kernels


def check(operation: Callable[..., Tensor], backend: str, compiler: str) -> None:
    torch._dynamo.reset()
    tensors = [randn(*shape, seed=i).float().to(DEVICE) for i, shape in enumerate(SHAPES[operation])]
    compiled = torch.compile(operation, fullgraph=True, backend=compiler)
    results = [with_gradients(f, tensors, backend) for f in (compiled, operation)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("operation", SHAPES, ids=lambda f: f.__name__)
def test_traced(operation, backend):
    check(operation, backend, "aot_eager")


@needs_compiler
@pytest.mark.parametrize("operation", OURS, ids=lambda f: f.__name__)
def test_lowered(operation):
    with QUICK:
        check(operation, "triton", "inductor")
