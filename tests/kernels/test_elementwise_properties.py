"""The projector and the gated residual on Triton kernels at shapes that nobody chose."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hive_kernels import gated_residual, residual_projector
from hive_kernels.testing import poisoned_allocations, with_gradients

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if torch.cuda.is_available() else []


def agree(operation, tensors):
    """With the fp64 reference, to fp32's precision; a tolerance by the same-dtype error is noise at such sizes."""
    truth = with_gradients(operation, [x.double() for x in tensors], "reference")
    with poisoned_allocations():
        results = with_gradients(operation, tensors, "triton")
    for exact, result in zip(truth, results, strict=True):
        torch.testing.assert_close(result.double(), exact, rtol=1e-4, atol=1e-4)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    layers=st.integers(1, 3),
    rows=st.integers(0, 70),
    width_in=st.integers(2, 70),
    width=st.integers(1, 70),
    identity=st.booleans(),
    recompute=st.booleans(),
)
def test_projector(layers, rows, width_in, width, identity, recompute):
    width = width_in if identity else width
    shapes = [(layers, rows, width_in), (layers, width_in), (layers, width_in), (layers, width_in, width)]
    shapes += [(layers, width), (layers, width, width), (layers, width)]
    shapes += [] if identity else [(layers, width_in, width), (layers, width)]
    generator = torch.Generator().manual_seed(rows)
    tensors = [torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes]
    tensors = [x * x.shape[1] ** -0.5 if i and x.dim() == 3 else x for i, x in enumerate(tensors)]

    def operation(*leaves, backend):
        # A LayerNorm over a few nearly equal values magnifies rounding without bound; the epsilon bounds it.
        return residual_projector(*leaves, eps=0.1, recompute=recompute and backend == "triton", backend=backend)

    agree(operation, tensors)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(shape=st.lists(st.integers(0, 40), min_size=1, max_size=3))
def test_gated_residual(shape):
    generator = torch.Generator().manual_seed(len(shape))
    agree(gated_residual, [torch.randn(s, generator=generator).to(DEVICE) for s in (shape, shape, (1,))])
