"""gated_residual on Triton kernels: interpreted on a CPU, compiled where there is a GPU."""

import math

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from hive_kernels import gated_residual
from hive_kernels.testing import assert_accurate, poisoned_allocations, saved_bytes, with_gradients

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
pytestmark = [pytest.mark.gpu] if GPU else []  # `pytest -m gpu` runs all of this on a GPU


def tensors(*shape: int, gate: float | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    x, y, g = (torch.randn(s, generator=generator, dtype=torch.float64).to(DEVICE) for s in (shape, shape, (1,)))
    return [x, y, g if gate is None else torch.full_like(g, gate)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(37, 24), (1, 1), (2, 3, 8), (65, 96), (1, 2048), (3, 2049)], ids=str)
def test_meets_the_tolerance_rule_and_writes_everything(shape, dtype):
    with poisoned_allocations():
        assert_accurate(gated_residual, tensors(*shape), dtype, "triton")


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU: too large, or bf16, for the interpreter")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(37, 24), (2464, 960), (20001, 576)], ids=str)
def test_meets_the_tolerance_rule_at_scale(shape, dtype):
    with poisoned_allocations():
        assert_accurate(gated_residual, tensors(*shape), dtype, "triton")


@pytest.mark.parametrize("gate", [0.0, 1e-6, -3e-3, 0.1999, 0.2001, -1.0, 9.0, -50.0, 200.0])
def test_the_opening_is_accurate_near_zero_and_far_from_it(gate):
    x, y, g = (t.float() for t in tensors(5, 8, gate=gate))
    opening = gated_residual(torch.zeros_like(x), torch.ones_like(y), g, backend="triton")
    expected = math.tanh(g.item())
    assert opening.eq(opening[0, 0]).all()
    assert abs(opening[0, 0].item() - expected) <= 2e-6 * abs(expected)


def test_a_closed_gate_returns_x_and_only_the_gate_learns():
    x, y, _ = (t.float() for t in tensors(5, 8))
    gate = torch.zeros((), device=DEVICE, requires_grad=True)
    y.requires_grad_()
    out = gated_residual(x, y, gate, backend="triton")
    assert torch.equal(out, x)
    out.sum().backward()
    assert not y.grad.any()
    torch.testing.assert_close(gate.grad, y.detach().sum())


def test_dtypes_mix_and_x_decides():
    x, y, gate = tensors(5, 8)
    leaves = [x.float().requires_grad_(), y.half().requires_grad_(), gate.float().requires_grad_()]
    out = gated_residual(*leaves, backend="triton")
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, (x + torch.tanh(gate) * y.half().double()).float())
    out.square().sum().backward()
    assert [leaf.grad.dtype for leaf in leaves] == [torch.float32, torch.float16, torch.float32]


def test_views_no_elements_determinism_and_what_is_kept():
    x, y, gate = (t.float() for t in tensors(64, 66))
    strided = [x.t()[1:], y.t()[1:], gate]
    first, second = (with_gradients(gated_residual, strided, "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.testing.assert_close(first, with_gradients(gated_residual, strided, "reference"))
    empty = with_gradients(gated_residual, [x[:0], y[:0], gate], "triton")
    assert empty[0].shape == (0, 66)
    assert not empty[3].any()
    leaves = [t.requires_grad_() for t in (x, y, gate)]
    assert saved_bytes(lambda: gated_residual(*leaves, backend="triton")) == y.nbytes + gate.nbytes


def test_operators_and_compilation():
    x, y, gate = (t.float() for t in tensors(5, 8))
    opcheck(torch.ops.hive_kernels.gated_residual.default, (x, y, gate))
    opcheck(torch.ops.hive_kernels.gated_residual_backward.default, (x, y, gate))
    compiled = torch.compile(gated_residual, fullgraph=True, backend="aot_eager")
    for a, b in zip(*(with_gradients(f, [x, y, gate], "triton") for f in (gated_residual, compiled)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(GPU, reason="only the interpreter refuses bf16")
def test_bf16_under_the_interpreter_is_refused():
    with pytest.raises(ValueError, match=r"TRITON_INTERPRET=1, whose bf16 products are wrong"):
        gated_residual(*(t.bfloat16() for t in tensors(5, 8)), backend="triton")
