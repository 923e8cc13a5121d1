"""gated_residual's Triton and CUDA kernels: emulated without a GPU, compiled with one."""

import math

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from hive_kernels import gated_residual
from hive_kernels.testing import assert_accurate, poisoned_allocations, saved_bytes, with_gradients
from tests.support.fake_tensors import check_shapes
from tests.support.gradients import gradient
from tests.support.kernel_backends import BOTH, CUDA, TRITON, prepare

DEVICE = TRITON.device
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []  # `pytest -m gpu` runs all of this on a GPU
AT_SCALE = [(37, 24), (2464, 960), (20001, 576)]


@pytest.fixture(autouse=True)
def _prepared(request, monkeypatch):
    prepare(request.getfixturevalue("kernels"), monkeypatch)


def tensors(*shape: int, gate: float | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    x, y, g = (torch.randn(s, generator=generator, dtype=torch.float64).to(DEVICE) for s in (shape, shape, (1,)))
    return [x, y, g if gate is None else torch.full_like(g, gate)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(37, 24), (1, 1), (2, 3, 8), (65, 96), (1, 2048), (3, 2049)], ids=str)
@BOTH
def test_meets_the_tolerance_rule_and_writes_everything(kernels, shape, dtype):
    with poisoned_allocations():
        assert_accurate(gated_residual, tensors(*shape), dtype, kernels.name)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", AT_SCALE, ids=str)
@BOTH
def test_meets_the_tolerance_rule_at_scale(kernels, shape, dtype):
    with poisoned_allocations():
        assert_accurate(gated_residual, tensors(*shape), dtype, kernels.name)


@pytest.mark.parametrize("shape", AT_SCALE, ids=str)
@BOTH
def test_shapes_at_scale(kernels, shape):
    empty = [torch.empty(s, dtype=torch.float16, device=DEVICE) for s in (shape, shape, (1,))]
    check_shapes(gated_residual, empty, torch.float16, kernels.name)


@pytest.mark.parametrize("gate", [0.0, 1e-6, -3e-3, 0.1999, 0.2001, -1.0, 9.0, -50.0, 200.0])
@BOTH
def test_the_opening_is_accurate_near_zero_and_far_from_it(kernels, gate):
    x, y, g = (t.float() for t in tensors(5, 8, gate=gate))
    opening = gated_residual(torch.zeros_like(x), torch.ones_like(y), g, backend=kernels.name)
    expected = math.tanh(g.item())
    assert opening.eq(opening[0, 0]).all()
    assert abs(opening[0, 0].item() - expected) <= 2e-6 * abs(expected)
    gradient = with_gradients(gated_residual, [x, y, g], kernels.name)[3].item()
    truth = with_gradients(gated_residual, [x.double(), y.double(), g.double()], "reference")[3].item()
    slope = 4 * math.exp(-2 * abs(gate)) / (1 + math.exp(-2 * abs(gate))) ** 2
    assert abs(gradient - truth) <= 1e-5 * 40 * slope + 1e-38


@BOTH
def test_a_closed_gate_returns_x_and_only_the_gate_learns(kernels):
    x, y, _ = (t.float() for t in tensors(5, 8))
    gate = torch.zeros((), device=DEVICE, requires_grad=True)
    y.requires_grad_()
    out = gated_residual(x, y, gate, backend=kernels.name)
    assert torch.equal(out, x)
    out.sum().backward()
    assert not gradient(y).any()
    torch.testing.assert_close(gate.grad, y.detach().sum())


@BOTH
def test_dtypes_mix_and_x_decides(kernels):
    x, y, gate = tensors(5, 8)
    leaves = [x.float().requires_grad_(), y.half().requires_grad_(), gate.float().requires_grad_()]
    out = gated_residual(*leaves, backend=kernels.name)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, (x + torch.tanh(gate) * y.half().double()).float())
    out.square().sum().backward()
    assert [gradient(leaf).dtype for leaf in leaves] == [torch.float32, torch.float16, torch.float32]


@BOTH
def test_views_no_elements_determinism_and_what_is_kept(kernels):
    x, y, gate = (t.float() for t in tensors(64, 66))
    strided = [x.t()[1:], y.t()[1:], gate]
    first, second = (with_gradients(gated_residual, strided, kernels.name) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.testing.assert_close(first, with_gradients(gated_residual, strided, "reference"))
    empty = with_gradients(gated_residual, [x[:0], y[:0], gate], kernels.name)
    assert empty[0].shape == (0, 66)
    assert not empty[3].any()
    leaves = [t.requires_grad_() for t in (x, y, gate)]
    assert saved_bytes(lambda: gated_residual(*leaves, backend=kernels.name)) == y.nbytes + gate.nbytes


@BOTH
def test_operators_and_compilation(kernels):
    x, y, gate = (t.float() for t in tensors(5, 8))
    operators = getattr(torch.ops, kernels.namespace)
    opcheck(operators.gated_residual.default, (x, y, gate))
    opcheck(operators.gated_residual_backward.default, (x, y, gate))
    compiled = torch.compile(gated_residual, fullgraph=True, backend="aot_eager")
    for a, b in zip(*(with_gradients(f, [x, y, gate], kernels.name) for f in (gated_residual, compiled)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(DEVICE == "cuda", reason="only the interpreter refuses bf16")
@pytest.mark.parametrize("kernels", [TRITON])
def test_bf16_under_the_interpreter_is_refused(kernels):
    with pytest.raises(ValueError, match=r"TRITON_INTERPRET=1, whose bf16 products are wrong"):
        gated_residual(*(t.bfloat16() for t in tensors(5, 8)), backend="triton")


@pytest.mark.parametrize("kernels", [CUDA])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_unaligned_tensors_and_every_pair_of_dtypes(kernels, dtype):
    """CUDA reads 16 bytes at a time: what begins elsewhere is copied first."""
    x, y, gate = tensors(9, 31)
    for other in (torch.float32, torch.bfloat16, torch.float16):
        shifted = [x.to(dtype).flatten()[1:277], y.to(other).flatten()[3:], gate.to(other)]
        aligned = [t.clone() for t in shifted]
        first, second = (with_gradients(gated_residual, t, "cuda") for t in (shifted, aligned))
        assert [t.dtype for t in first] == [dtype, dtype, other, other]
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@BOTH
def test_the_gate_sums_up_all_elements_and_nothing_behind_them(kernels):
    """More blocks than the block that adds up their sums has threads, and NaN where the tensors end."""
    count = 256 * 2048 + 1
    y = torch.full((count + 64,), float("nan"), device=DEVICE)[:count].fill_(1)
    gate = torch.zeros(1, device=DEVICE)
    _, gradient = getattr(torch.ops, kernels.namespace).gated_residual_backward(y, y, gate)
    assert gradient.item() == count


@pytest.mark.parametrize("kernels", [CUDA])
def test_fp64_is_refused(kernels):
    with pytest.raises(ValueError, match=r"x.dtype is torch.float64; allowed: torch.float16, .* under backend 'cuda'"):
        gated_residual(*tensors(5, 8), backend="cuda")
