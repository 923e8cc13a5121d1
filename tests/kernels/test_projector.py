"""residual_projector: the residual MLP of all selected layers in one call."""

import pytest
import torch
from torch import Tensor

from hive_kernels import residual_projector
from hive_kernels.testing import assert_accurate, with_gradients


def inputs(layers: int = 2, rows: int = 7, width_in: int = 24, width: int = 16, skip: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(layers + rows + width_in + width)

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    tensors = [
        3 * randn(layers, rows, width_in) + 1,
        1 + randn(layers, width_in, scale=0.3),
        randn(layers, width_in, scale=0.3),
        randn(layers, width_in, width, scale=width_in**-0.5),
        randn(layers, width),
        randn(layers, width, width, scale=width**-0.5),
        randn(layers, width),
    ]
    return tensors + ([randn(layers, width_in, width, scale=width_in**-0.5), randn(layers, width)] if skip else [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "tensors",
    [
        inputs(),
        inputs(skip=False, width_in=16),
        inputs(1, 1, 40, 24),
        inputs(3, 65, 80, 96),
        inputs(2, 33, 64, 64, False),
    ],
    ids=["linear skip", "identity skip", "one row", "wider", "identity, more rows"],
)
def test_torch_backend_meets_the_tolerance_rule(tensors, dtype):
    assert_accurate(residual_projector, tensors, dtype, "torch")


@pytest.mark.parametrize("skip", [True, False])
def test_backends_agree_in_fp64_and_on_views(skip):
    tensors = inputs(width_in=16, skip=skip)
    expected = with_gradients(residual_projector, tensors, "reference")
    torch.testing.assert_close(with_gradients(residual_projector, tensors, "torch"), expected, rtol=1e-10, atol=1e-12)
    transposed = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in tensors]
    torch.testing.assert_close(
        with_gradients(residual_projector, transposed, "torch"), expected, rtol=1e-10, atol=1e-12
    )


def test_no_rows():
    for backend in ("reference", "torch"):
        assert residual_projector(*inputs(rows=0), backend=backend).shape == (2, 0, 16)


@pytest.mark.parametrize("skip", [True, False])
def test_gradcheck_of_the_reference(skip):
    leaves = [x.requires_grad_() for x in inputs(2, 3, 5, 5, skip)]
    assert torch.autograd.gradcheck(lambda *x: residual_projector(*x, backend="reference"), leaves, fast_mode=True)


def test_zero_stride_gradient_and_layers_apart():
    """Another layer's weights change nothing here, and the gradient of a sum needs no strides."""
    tensors = [x.float() for x in inputs()]
    changed = [torch.cat([x[:1], x[1:] * 2]) for x in tensors]
    results = []
    for candidates in (tensors, changed):
        leaves = [x.requires_grad_() for x in candidates]
        out = residual_projector(*leaves, backend="torch")
        results.append([out[0], *(grad[0] for grad in torch.autograd.grad(out.sum(), leaves))])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("features", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_autocast(backend, features):
    """bf16 products and output from fp32 parameters, whose gradients stay fp32."""
    x, *parameters = (x.float() for x in inputs(rows=64))
    leaves = [p.requires_grad_() for p in parameters]
    with torch.autocast("cpu", torch.bfloat16):
        out = residual_projector(x.to(features), *leaves, backend=backend)
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in leaves)
    exact = residual_projector(x, *leaves, backend="reference")
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)


def test_meta_tensors():
    leaves = [x.to("meta", torch.float32).requires_grad_() for x in inputs()]
    out = residual_projector(*leaves)
    out.sum().backward()
    assert out.shape == (2, 7, 16)
    assert all(x.grad is not None for x in leaves)


def test_bad_arguments():
    tensors = inputs()
    names = ["x", "ln_w", "ln_b", "w1", "b1", "w2", "b2", "w_skip", "b_skip"]
    for i, name in enumerate(names[1:], 1):
        wrong = [*tensors[:i], tensors[i][:1], *tensors[i + 1 :]]
        with pytest.raises(ValueError, match=rf"{name}.shape is .*; allowed: \(2, "):
            residual_projector(*wrong)
        wrong = [*tensors[:i], tensors[i].float(), *tensors[i + 1 :]]
        with pytest.raises(ValueError, match=rf"{name}.dtype is torch.float32; allowed: torch.float64"):
            residual_projector(*wrong)
    with pytest.raises(ValueError, match=r"x.shape is \(7, 24\); allowed: \(S, M, Dv\)"):
        residual_projector(tensors[0][0], *tensors[1:])
    with pytest.raises(ValueError, match="w_skip, b_skip is w_skip alone; allowed: both or neither"):
        residual_projector(*tensors[:8])
    with pytest.raises(ValueError, match=r"w_skip is None; .* identity can't map Dv = 24 to D = 16"):
        residual_projector(*tensors[:7])
    with pytest.raises(ValueError, match=r"eps is -1.0"):
        residual_projector(*tensors, eps=-1.0)
