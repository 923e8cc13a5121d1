"""gated_residual: x + tanh(gate) y."""

import pytest
import torch

from hive_kernels import gated_residual
from hive_kernels.testing import assert_accurate
from tests.support.gradients import gradient


def tensors(*shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in (shape, shape, ())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(37, 24), (1, 1), (2, 3, 8)], ids=str)
def test_torch_backend_meets_the_tolerance_rule(shape, dtype):
    assert_accurate(gated_residual, tensors(*shape), dtype, "torch")


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_definition(backend):
    x, y, gate = tensors(5, 8)
    for g in (gate, gate.reshape(1)):
        torch.testing.assert_close(gated_residual(x, y, g, backend=backend), x + torch.tanh(gate) * y)
    leaves = [t.requires_grad_() for t in (x, y, gate)]
    assert torch.autograd.gradcheck(lambda *t: gated_residual(*t, backend=backend), leaves)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_closed_gate_returns_x_and_only_the_gate_learns(backend):
    x, y, _ = (t.float() for t in tensors(5, 8))
    gate = torch.zeros(1, requires_grad=True)
    y.requires_grad_()
    out = gated_residual(x, y, gate, backend=backend)
    assert torch.equal(out, x)
    out.sum().backward()
    assert not gradient(y).any()
    torch.testing.assert_close(gate.grad, y.detach().sum().reshape(1))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_dtypes_mix_and_x_decides(backend):
    """Under autocast the stream is fp32, what is added bf16, the gate an fp32 parameter."""
    x, y, gate = tensors(5, 8)
    out = gated_residual(x.float(), y.bfloat16(), gate.float(), backend=backend)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, (x + torch.tanh(gate) * y.bfloat16().double()).float())
    assert gated_residual(x.bfloat16(), y.float(), gate.float().reshape(1), backend=backend).dtype == torch.bfloat16


def test_meta_tensors():
    leaves = [t.to("meta").requires_grad_() for t in tensors(5, 8)]
    gated_residual(*leaves).sum().backward()
    assert gradient(leaves[2]).shape == ()


def test_bad_arguments():
    x, y, gate = tensors(5, 8)
    with pytest.raises(ValueError, match=r"y.shape is \(4, 8\); allowed: \(5, 8\)"):
        gated_residual(x, y[:4], gate)
    with pytest.raises(ValueError, match=r"gate is of shape \(8,\); allowed: shape \(\) or \(1,\)"):
        gated_residual(x, y, y[0])
    with pytest.raises(ValueError, match=r"gate is 0.5; allowed: shape \(\) or \(1,\)"):
        gated_residual(x, y, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gate.device is meta; allowed: cpu"):
        gated_residual(x, y, gate.to("meta"))
    with pytest.raises(ValueError, match=r"x.dtype is torch.int64"):
        gated_residual(x.long(), y, gate)
