"""linear_cross_entropy: right at any number of chunks, and never with all logits in memory."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from hive_kernels import linear_cross_entropy
from hive_kernels.linear_cross_entropy import torch_backend
from hive_kernels.testing import assert_accurate, with_gradients
from tests.support.gradients import gradient

ROWS, WIDTH, WORDS = 50, 24, 160


class LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def inputs(rows: int = ROWS) -> tuple[list[Tensor], Tensor]:
    """h, w and targets, every third of them ignored."""
    generator = torch.Generator().manual_seed(rows)
    h = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)
    w = torch.randn(WORDS, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, WORDS, (rows,), generator=generator)
    targets[::3] = -100
    return [h, w], targets


def with_targets(targets: Tensor):
    return lambda h, w, backend: linear_cross_entropy(h, w, targets.to(h.device), backend=backend)


@pytest.fixture(params=[1, 3, 50])
def chunks(request, monkeypatch):
    """How many chunks ROWS rows take."""
    monkeypatch.setattr(torch_backend, "CHUNK_ELEMENTS", -(-ROWS // request.param) * WORDS)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_torch_backend_meets_the_tolerance_rule(chunks, dtype):
    tensors, targets = inputs()
    assert_accurate(with_targets(targets), tensors, dtype, "torch")


def test_fp64_agrees_with_the_reference(chunks):
    tensors, targets = inputs()
    run = with_targets(targets)
    expected = with_gradients(run, tensors, "reference")
    torch.testing.assert_close(with_gradients(run, tensors, "torch"), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradcheck(backend):
    tensors, targets = inputs(7)
    leaves = [x.requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, backend=backend), leaves, fast_mode=True
    )


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_no_rows_or_none_that_count(backend):
    tensors, targets = inputs(6)
    for rows, t in ((0, targets[:0]), (6, torch.full_like(targets, -100))):
        out, dh, dw = with_gradients(with_targets(t), [tensors[0][:rows], tensors[1]], backend)
        assert out == 0
        assert not dh.any()
        assert not dw.any()


def test_all_logits_never_exist(monkeypatch):
    monkeypatch.setattr(torch_backend, "CHUNK_ELEMENTS", 8 * WORDS)
    (h, w), targets = inputs(400)
    h.requires_grad_()
    w.requires_grad_()
    peaks: dict[str, tuple[int, int]] = {}
    saved: list[int] = []

    def note(x: Tensor) -> Tensor:
        saved.append(x.numel())
        return x

    for backend in ("torch", "reference"):
        with (
            LargestTensor() as largest,
            torch.autograd.graph.saved_tensors_hooks(note, lambda x: x),
        ):
            linear_cross_entropy(h, w, targets, backend=backend).backward()
        peaks[backend] = (largest.elements, max(saved))
    assert peaks["torch"] == (400 * WIDTH, 400 * WIDTH)  # h's gradient; chunks have 8 * WORDS
    assert peaks["reference"][0] == 400 * WORDS


def test_a_frozen_head_costs_no_weight_gradient():
    (h, w), targets = inputs()
    h.requires_grad_()
    saved: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        saved.append(x)
        return x

    with (
        FlopCounterMode(display=False) as flops,
        torch.autograd.graph.saved_tensors_hooks(note, lambda x: x),
    ):
        linear_cross_entropy(h, w, targets).backward()
    assert w.grad is None
    assert [x.shape for x in saved] == [h.shape]
    assert flops.get_total_flops() == 2 * (2 * ROWS * WIDTH * WORDS)  # logits and h's gradient
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        assert not linear_cross_entropy(h, w, targets).requires_grad
    assert flops.get_total_flops() == 2 * ROWS * WIDTH * WORDS


def test_backward_twice_and_scaled():
    tensors, targets = inputs()
    h, w = (x.requires_grad_() for x in tensors)
    loss = linear_cross_entropy(h, w, targets)
    once = torch.autograd.grad(loss, (h, w), retain_graph=True)
    scaled = torch.autograd.grad(loss, (h, w), torch.tensor(-0.25, dtype=torch.float64))
    torch.testing.assert_close(scaled, tuple(-0.25 * x for x in once))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_autocast(backend):
    """bf16 products, an fp32 loss, fp32 gradients for fp32 parameters."""
    tensors, targets = inputs()
    h, w = (x.float().requires_grad_() for x in tensors)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(h, w, targets, backend=backend)
        mixed = linear_cross_entropy(h.bfloat16(), w, targets, backend=backend)
    assert loss.dtype == mixed.dtype == torch.float32
    assert torch.equal(loss, mixed)
    assert torch.equal(loss, linear_cross_entropy(h.bfloat16(), w.bfloat16(), targets, backend=backend))
    loss.backward()
    assert gradient(h).dtype == gradient(w).dtype == torch.float32


def test_meta_tensors(chunks):
    tensors, targets = inputs()
    h, w = (x.to("meta").requires_grad_() for x in tensors)
    loss = linear_cross_entropy(h, w, targets.to("meta"))
    loss.backward()
    assert loss.shape == ()
    assert gradient(w).shape == w.shape


def test_bad_arguments():
    (h, w), targets = inputs()
    for bad, message in (
        ((h[0], w, targets), r"h.shape is \(24,\); allowed: \(T, D\)"),
        ((h, w.t(), targets), r"w.shape is \(24, 160\); allowed: \(V, 24\)"),
        ((h, w, targets[1:]), r"targets.shape is \(49,\); allowed: \(50,\)"),
        ((h, w, targets.int()), "targets.dtype is torch.int32; allowed: torch.int64"),
        ((h, w.float(), targets), "w.dtype is torch.float32; allowed: torch.float64"),
        ((h, w, targets.to("meta")), "targets.device is meta; allowed: cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_cross_entropy(*bad)
    for wrong in (WORDS, -1):
        with pytest.raises((RuntimeError, IndexError)):
            linear_cross_entropy(h, w, torch.full_like(targets, wrong), backend="torch")
