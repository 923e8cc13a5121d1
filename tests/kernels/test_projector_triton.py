"""residual_projector on Triton kernels: interpreted on a CPU, compiled where there is a GPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from hive_kernels import residual_projector
from hive_kernels.projector import tiles
from hive_kernels.projector.measured_tiles import GEMM
from hive_kernels.testing import assert_accurate, poisoned_allocations, saved_bytes, with_gradients
from tests.support.fake_tensors import check_shapes
from tests.support.gradients import gradient

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
pytestmark = [pytest.mark.gpu] if GPU else []  # `pytest -m gpu` runs all of this on a GPU
DTYPES = [
    torch.float32,
    torch.float16,
    pytest.param(
        torch.bfloat16, marks=pytest.mark.skipif(not GPU, reason="Triton's interpreter gets bf16 products wrong")
    ),
]
# layers, rows, tower's width, host's width, linear skip
SIZES = {
    "linear skip": (2, 7, 24, 16, True),
    "identity skip": (2, 7, 16, 16, False),
    "two rows": (1, 2, 40, 24, True),
    "ragged": (3, 65, 80, 96, True),
    "ragged, identity": (2, 131, 72, 72, False),
    "one layer, a row wider than a tile": (1, 3, 2056, 24, True),
    "odd widths": (2, 19, 33, 17, True),
}
AT_SCALE = {
    "SigLIP to SmolLM2": (2, 2 * 577, 1152, 960, True),
    "equal widths": (2, 2 * 576, 960, 960, False),
    "small tower": (3, 1000, 192, 576, True),
}


def inputs(layers: int, rows: int, width_in: int, width: int, skip: bool, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(DEVICE)

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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_meets_the_tolerance_rule_and_writes_everything(size, dtype):
    with poisoned_allocations():
        assert_accurate(residual_projector, inputs(*SIZES[size]), dtype, "triton")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", ["linear skip", "identity skip"])
def test_recompute_meets_it_too(size, dtype):
    with poisoned_allocations():
        assert_accurate(partial(residual_projector, recompute=True), inputs(*SIZES[size]), dtype, "triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("size", AT_SCALE)
def test_meets_the_tolerance_rule_at_scale(size, dtype):
    with poisoned_allocations():
        assert_accurate(residual_projector, inputs(*AT_SCALE[size]), dtype, "triton")


@pytest.mark.parametrize("size", AT_SCALE)
def test_shapes_at_scale(size):
    check_shapes(residual_projector, inputs(*AT_SCALE[size]), torch.float16, "triton")


@pytest.mark.skipif(GPU, reason="only the interpreter refuses bf16")
def test_bf16_under_the_interpreter_is_refused():
    tensors = [x.bfloat16() for x in inputs(*SIZES["linear skip"])]
    with pytest.raises(ValueError, match=r"bfloat16; allowed: .* TRITON_INTERPRET=1, whose bf16 products are wrong"):
        residual_projector(*tensors, backend="triton")


def test_fp64_is_refused():
    with pytest.raises(ValueError, match=r"float64; allowed: .* under backend 'triton'"):
        residual_projector(*inputs(*SIZES["linear skip"]), backend="triton")


@pytest.mark.parametrize("product", tiles.PRODUCTS)
def test_a_table_entry_brings_in_the_fused_gemm(product, monkeypatch):
    """Under the same rule, with ragged edges in every direction, and in all of its three places."""
    from hive_kernels.launch import capability
    from hive_kernels.projector.triton_backend import gemm

    layers, rows, width_in, width, skip = 2, 37, 48, 40, True
    inner, columns = (width, width_in) if product == "features" else (width_in, width)
    monkeypatch.setattr(tiles, "FEWEST_ROWS", 0)
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(gemm, "gemm_kernel", _Counting(gemm.gemm_kernel, calls))  # launches still, and says so
    for dtype in (torch.float16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        key = (product, capability(torch.device(DEVICE)), name, inner, columns)
        monkeypatch.setitem(GEMM, key, (16, 32, 16, 4, 2))
        with poisoned_allocations():
            assert_accurate(residual_projector, inputs(layers, rows, width_in, width, skip), dtype, "triton")
    assert len(calls) == 2


class _Counting:
    def __init__(self, kernel: Any, calls: list[tuple[int, ...]]) -> None:
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        self.calls.append(grid)
        return self.kernel[grid]


@pytest.mark.parametrize("skip", [True, False])
def test_views_frozen_parts_and_zero_stride_gradients(skip):
    tensors = [x.float() for x in inputs(2, 9, 16, 16, skip)]
    expected = with_gradients(residual_projector, tensors, "reference")
    for view in (
        lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
        lambda x: torch.cat([torch.zeros_like(x[..., :1, :]), x], -2)[..., 1:, :],
    ):
        torch.testing.assert_close(with_gradients(residual_projector, [view(x) for x in tensors], "triton"), expected)
    x, *parameters = tensors
    x.requires_grad_()
    out = residual_projector(x, *parameters, backend="triton")
    (alone,) = torch.autograd.grad(out.sum(), x)
    x_grad = torch.autograd.grad(residual_projector(x, *parameters, backend="reference").sum(), x)[0]
    torch.testing.assert_close(alone, x_grad)
    leaves = [p.requires_grad_() for p in parameters]
    sums = [
        torch.autograd.grad(residual_projector(x.detach(), *leaves, backend=backend).sum(), leaves)
        for backend in ("triton", "reference")
    ]
    torch.testing.assert_close(*sums)


def test_no_rows():
    leaves = [x.float().requires_grad_() for x in inputs(2, 0, 24, 16, True)]
    out = residual_projector(*leaves, backend="triton")
    out.sum().backward()
    assert out.shape == (2, 0, 16)
    assert not any(gradient(x).any() for x in leaves)


def test_two_backward_runs_are_bit_equal():
    tensors = [x.float() for x in inputs(1, 131, 16, 24, True)]  # several chunks, so several partial sums
    first, second = (with_gradients(residual_projector, tensors, "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class PlainProjector(nn.Module):
    """What a user would write: LayerNorm, a skip and a GELU MLP, one a layer."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width_in)
        self.fc1, self.fc2 = nn.Linear(width_in, width), nn.Linear(width, width)
        self.skip = nn.Linear(width_in, width) if width_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        return self.skip(n) + self.fc2(nn.functional.gelu(self.fc1(n)))


@pytest.mark.parametrize(("width_in", "width"), [(72, 60), (64, 64), (48, 60)])
def test_saved_bytes(width_in, width):
    """x and h, or x alone: at most 60 % of what the plain modules keep, and to the byte what we say."""
    layers, rows, size = 2, 128, 4
    tensors = [x.float() for x in inputs(layers, rows, width_in, width, width_in != width)]
    x, parameters = tensors[0].requires_grad_(), [p.requires_grad_() for p in tensors[1:]]
    plain = nn.ModuleList(PlainProjector(width_in, width) for _ in range(layers)).to(DEVICE)
    theirs = saved_bytes(
        lambda: torch.stack([module(x[i]) for i, module in enumerate(plain)]), known=[*plain.parameters()]
    )

    def ours(recompute: bool) -> int:
        run = partial(residual_projector, x, *parameters, recompute=recompute, backend="triton")
        return saved_bytes(run, known=parameters)

    assert ours(False) == layers * rows * (width_in + width) * size
    assert ours(True) == layers * rows * width_in * size
    assert ours(False) <= 0.6 * theirs


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_recompute_of_the_other_backends_keeps_x_alone(backend):
    tensors = [x.float() for x in inputs(*SIZES["ragged"])]
    run = partial(residual_projector, recompute=True)
    torch.testing.assert_close(
        with_gradients(run, tensors, backend), with_gradients(residual_projector, tensors, backend)
    )
    leaves = [x.requires_grad_() for x in tensors]
    kept = saved_bytes(lambda: run(*leaves, backend=backend), known=leaves[1:])
    assert kept <= tensors[0].nbytes


@pytest.mark.parametrize("features", [torch.float32, torch.float16], ids=str)
def test_autocast(features):
    """fp16 products and output from fp32 parameters, whose gradients stay fp32."""
    x, *parameters = (x.float() for x in inputs(2, 33, 24, 16, True))
    leaves = [p.requires_grad_() for p in parameters]
    x = x.to(features).requires_grad_()
    with torch.autocast(DEVICE, torch.float16):
        out = residual_projector(x, *leaves, backend="triton")
    out.float().square().mean().backward()
    assert out.dtype == torch.float16
    assert gradient(x).dtype == features
    assert all(gradient(p).dtype == torch.float32 for p in leaves)
    exact = residual_projector(x.float(), *leaves, backend="reference")
    torch.testing.assert_close(out.float(), exact, rtol=0.01, atol=0.01)


def test_operators_and_compilation():
    tensors = [x.float() for x in inputs(*SIZES["linear skip"])]
    operators = torch.ops.hive_kernels
    opcheck(operators.residual_projector.default, (*tensors, 1e-5, torch.float32))
    out, h = operators.residual_projector(*tensors, 1e-5, torch.float32)
    for kept in (h, None):
        arguments = (torch.randn_like(out), tensors[0], kept, *tensors[1:], 1e-5, torch.float32, True, True)
        opcheck(operators.residual_projector_backward.default, arguments)
    compiled = torch.compile(residual_projector, fullgraph=True, backend="aot_eager")
    for a, b in zip(*(_run(f, tensors) for f in (residual_projector, compiled)), strict=True):
        assert torch.equal(a, b)


def _run(operation, tensors: list[Tensor]) -> list[Tensor]:
    return with_gradients(operation, tensors, "triton")


def test_flops_equal_the_products_of_the_torch_backend():
    layers, rows, width_in, width = 2, 7, 24, 16
    leaves = [x.float().requires_grad_() for x in inputs(layers, rows, width_in, width, True)]
    products = 2 * layers * rows * width * (2 * width_in + width)
    for recompute, expected in ((False, 3 * products), (True, 3 * products + 2 * layers * rows * width_in * width)):
        with FlopCounterMode(display=False) as counter:
            residual_projector(*leaves, recompute=recompute, backend="triton").sum().backward()
        assert counter.get_total_flops() == expected


def test_addresses_beyond_32_bits_by_arithmetic():
    """A program's first element is computed in int64; what is added to it stays below 2**31."""
    for kernel in tiles.KERNELS:
        for block in (16, 1024, 8192):
            for tile in tiles.elementwise_candidates(kernel, block):
                assert max(tile.rows, tile.chunk) * 8192 < 2**31
                assert tile.chunk % tile.rows == 0
