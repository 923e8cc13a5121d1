"""cross_attention's Triton and CUDA kernels: emulated without a GPU, compiled with one."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from hive_kernels import cross_attention
from hive_kernels.testing import cu_seqlens, random_lengths, saved_bytes, with_gradients
from tests.support.attention_cases import Case, backward_twice, check, cross, randn
from tests.support.fake_tensors import check_shapes
from tests.support.gradients import gradient
from tests.support.kernel_backends import BOTH, BOTH_IN_EVERY_DTYPE, CUDA, prepare


@pytest.fixture(autouse=True)
def _prepared(request, monkeypatch):
    prepare(request.getfixturevalue("kernels"), monkeypatch)


# Of narrow heads: D is the backend's narrowest. The first ones have texts of more than 64 packed rows, or no bound.
CASES: dict[str, Callable[[int], Case]] = {
    "many rows": lambda D: cross([23, 0, 2], 63, 1, 3, D),
    "few rows": lambda D: cross([5, 0, 9], 40, 2, 3, D, max_seqlen_q=9),
    "even tiles": lambda D: cross([22], 64, 1, 3, 64),
    "577 keys": lambda D: cross([22], 577, 1, 3, 64, max_seqlen_q=22),
    "577 keys, few rows": lambda D: cross([3], 577, 1, 3, 64, max_seqlen_q=3),
    "one key": lambda D: cross([3, 2], 1, 2, 8, D),
    "one query each": lambda D: cross([1, 1, 1], 9, 2, 1, D, max_seqlen_q=1),
    "group of 8": lambda D: cross([9, 1], 33, 1, 8, 128),
    "packed keys": lambda D: cross([24, 0, 9, 4, 0], [3, 45, 0, 11, 0], 1, 3, 64),
    "packed keys, few rows": lambda D: cross([5, 0, 9, 4, 0], [3, 70, 0, 11, 0], 2, 3, D, max_seqlen_q=9),
    "no image at all": lambda D: cross([25, 2], [0, 0], 1, 3, D),
    "scores turned round": lambda D: cross([23, 0, 2], 65, 1, 3, D, scale=-0.3),
    "scores turned round, few rows": lambda D: cross([5, 0, 9], [3, 70, 0], 1, 3, D, max_seqlen_q=9, scale=-0.3),
    "no image at all, few rows": lambda D: cross([5, 2], [0, 0], 1, 3, D, max_seqlen_q=5),
}
BIG = {
    "long": cross([77, 0, 3, 40], 577, 5, 3, 64),
    "long, even": cross([77, 0, 3, 40], 576, 5, 3, 64, max_seqlen_q=77),
    "short": cross([21, 0, 3, 20], 577, 5, 3, 64, max_seqlen_q=21),
    "long packed": cross([77, 0, 3, 40], [576, 0, 1154, 3], 3, 3, 64),
    "groups of 4, 128 wide": cross([50, 9], 100, 2, 4, 128),
    "longer than a block": cross([200, 0, 9], 577, 2, 3, 64),
}


@BOTH_IN_EVERY_DTYPE
@pytest.mark.parametrize("case", CASES)
def test_tolerance_rule(case, kernels, dtype):
    check(CASES[case](kernels.dim), dtype, kernels)


@pytest.mark.gpu
@BOTH_IN_EVERY_DTYPE
@pytest.mark.parametrize("case", BIG)
def test_tolerance_rule_at_scale(case, kernels, dtype):
    check(BIG[case], dtype, kernels)


@BOTH
@pytest.mark.parametrize("case", BIG)
def test_shapes_at_scale(case, kernels):
    run, tensors = BIG[case]
    check_shapes(run, [x.to(kernels.device) for x in tensors], torch.float16, kernels.name)


@BOTH
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 4),
    longest=st.integers(1, 30),
    images=st.integers(1, 70),
    heads=st.integers(1, 2),
    group=st.sampled_from([1, 3, 8]),
    wide=st.integers(0, 3),
    packed=st.booleans(),
    bounded=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_random_packed_batches(kernels, batch, longest, images, heads, group, wide, packed, bounded, seed):
    generator = torch.Generator().manual_seed(seed)
    texts = random_lengths(batch, longest, generator)
    tokens = random_lengths(batch, images, generator) if packed else images
    bounds = {"max_seqlen_q": longest} if bounded else {}
    dims = (64, 128) if kernels is CUDA else (16, 32, 40, 64)
    check(cross(texts, tokens, heads, group, dims[wide % len(dims)], **bounds), kernels.dtypes[0], kernels)


@BOTH
@pytest.mark.parametrize("case", ["many rows", "packed keys, few rows"])
def test_two_runs_agree_in_every_bit(case, kernels):
    backward_twice(CASES[case](kernels.dim), torch.float16, kernels)


@pytest.mark.gpu
@BOTH
@pytest.mark.parametrize("case", BIG)
def test_two_runs_agree_in_every_bit_at_scale(case, kernels):
    backward_twice(BIG[case], torch.bfloat16, kernels)


@BOTH
@pytest.mark.parametrize("bound", [None, 9], ids=["many rows", "few rows"])
def test_scores_far_below_zero(kernels, bound):
    """A key that doesn't exist has a score of 0, and would weigh more than all others."""
    run, (q, k, v) = cross([5, 9], 70, 1, 3, kernels.dim, max_seqlen_q=bound)
    check((run, [q.abs() + 2, -k.abs() - 2, v]), torch.float16, kernels)


@BOTH
@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_no_tokens_at_all(kernels, lengths):
    for images in (4, lengths):
        run, tensors = cross(lengths, images, 2, 3, kernels.dim)
        out, *gradients = with_gradients(run, [x.half().to(kernels.device) for x in tensors], kernels.name)
        assert out.shape == (0, 6, kernels.dim)
        assert all(not g.any() for g in gradients)


@BOTH
def test_log_sum_exp_and_texts_without_an_image(kernels):
    q, k = (randn(*shape, kernels.dim).to(kernels.device, kernels.dtypes[0]) for shape in ((9, 6), (16, 2)))
    offsets, offsets_k = cu_seqlens([3, 2, 4], kernels.device), cu_seqlens([6, 0, 10], kernels.device)
    wide = (q.double(), k.double(), k.double())
    expected = cross_attention(*wide, offsets, cu_seqlens_k=offsets_k, backend="reference", return_lse=True)
    leaf = q.clone().requires_grad_()
    out, lse = cross_attention(leaf, k, k, offsets, cu_seqlens_k=offsets_k, backend=kernels.name, return_lse=True)
    torch.testing.assert_close(out.double(), expected[0], rtol=0, atol=8 * torch.finfo(q.dtype).eps)
    torch.testing.assert_close(lse.double(), expected[1], rtol=0, atol=1e-5)
    assert not out[3:5].any()
    assert (lse[3:5] == float("-inf")).all()
    assert not lse.requires_grad
    out.sum().backward()
    assert not gradient(leaf)[3:5].any()
    assert gradient(leaf)[:3].all()


@BOTH
@pytest.mark.parametrize("poison", [1.0, float("nan")], ids=["changed", "NaN"])
@pytest.mark.parametrize("bound", [None, 7], ids=["many rows", "few rows"])
def test_nothing_leaks_between_samples(kernels, bound, poison):
    """Sample 1 changes, or turns NaN: all others' outputs and gradients keep every bit."""
    run, tensors = cross([3, 7, 2], [5, 7, 3], 1, 8, kernels.dim, max_seqlen_q=bound)
    tensors = [x.half().to(kernels.device) for x in tensors]
    text, image = slice(3, 10), slice(5, 12)
    changed = [x.clone() for x in tensors]
    for x, rows in zip(changed, (text, image, image), strict=True):
        x[rows] = x[rows] * 3 + poison
    before, after = (with_gradients(run, x, kernels.name) for x in (tensors, changed))
    for a, b, rows in zip(before, after, (text, text, image, image), strict=True):
        keep = torch.ones(a.shape[0], dtype=torch.bool)
        keep[rows] = False
        assert torch.equal(a[keep], b[keep])


@BOTH
def test_keys_and_values_in_one_tensor_and_a_gradient_without_strides(kernels):
    """As the engine has them: k and v are slices of [B, N, 2, Hkv, D], q is a slice of a wider projection."""
    offsets = cu_seqlens([4, 2, 0], kernels.device)
    shapes = (6, 10, kernels.dim), (3, 5, 2, 2, kernels.dim)
    wide, pair = (randn(*shape).half().to(kernels.device) for shape in shapes)
    results = []
    for copied in (False, True):
        views = [wide[:, 3:9], pair[:, :, 0], pair[:, :, 1], pair.transpose(3, 4).contiguous().transpose(3, 4)[:, :, 1]]
        leaves = [(x.contiguous() if copied else x).detach().requires_grad_() for x in views]
        q, k, v, strided = leaves
        first, second = (cross_attention(q, k, x, offsets, backend=kernels.name) for x in (v, strided))
        out = first + second
        out.sum().backward()
        results.append([out.detach(), *(x.grad for x in leaves)])
    torch.testing.assert_close(*results, rtol=0, atol=0)


class Constant(torch.autograd.Function):
    """Has no gradient to give, as a function that returns None for an input."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@BOTH
def test_an_output_that_gets_no_gradient(kernels):
    run, tensors = cross([2, 3], 5, 1, 2, kernels.dim)
    leaves = [x.half().to(kernels.device).requires_grad_() for x in tensors]
    Constant.apply(run(*leaves, backend=kernels.name)).sum().backward()
    assert all(x.grad is None for x in leaves)


@BOTH
@pytest.mark.parametrize(
    ("texts", "bound"), [([3, 30, 0, 21], 0), ([3, 30, 0, 21], 21), ([90, 2], 85)], ids=["none", "64 rows", "255 rows"]
)
def test_a_bound_that_is_too_small(kernels, monkeypatch, texts, bound):
    """A GPU doesn't check it: gradients of a text that is longer are right or NaN, all others are right."""
    allocate = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *sizes, **options: allocate(*sizes, **options).fill_(7))  # Triton's
    operators = getattr(torch.ops, kernels.namespace)
    offsets, keys = cu_seqlens(texts, kernels.device), (len(texts), 33, 1, 64)
    shapes = ((sum(texts), 3, 64), (sum(texts), 3, 64), keys, keys)
    grad, q, k, v = (randn(*shape, seed=i).half().to(kernels.device) for i, shape in enumerate(shapes))
    saved = operators.cross_attention(q, k, v, offsets, None, 0.125, max(texts))
    right = operators.cross_attention_backward(grad, *saved, q, k, v, offsets, None, 0.125, max(texts))
    dq, dk, dv = operators.cross_attention_backward(grad, *saved, q, k, v, offsets, None, 0.125, bound)
    within = torch.tensor(texts, device=kernels.device) <= max(bound, 21)
    rows = torch.repeat_interleave(within, offsets.diff())
    for actual, expected, known in ((dq, right[0], rows), (dk, right[1], within), (dv, right[2], within)):
        assert not (actual.view(torch.int16) == -1).any()  # what the emulator fills memory with
        assert not actual[known].isnan().any()
        torch.testing.assert_close(actual.where(~actual.isnan(), expected), expected, rtol=2e-3, atol=2e-3)
    if kernels is CUDA:  # a row's dQ needs no other row; dK and dV are sums over rows that don't fit one block
        assert not dq.isnan().any()
        assert dk[~within].isnan().all()
        assert dv[~within].isnan().all()


@BOTH
def test_samples_more_than_2_31_elements_apart(kernels):
    """Address space is reserved, and only what is read and written of it is touched."""
    apart, dim = 2**31 + 64, kernels.dim
    storage = torch.empty(apart + 3 * dim, dtype=torch.float16, device=kernels.device)
    q, k = randn(2, 1, dim).half().to(kernels.device), storage.as_strided((2, 3, 1, dim), (apart, dim, dim, 1))
    k.copy_(randn(2, 3, 1, dim))
    offsets = cu_seqlens([1, 1], kernels.device)
    expected = cross_attention(q, k.clone(), k.clone(), offsets, backend=kernels.name)
    assert torch.equal(cross_attention(q, k, k, offsets, backend=kernels.name), expected)


@BOTH
@pytest.mark.parametrize("bound", [None, 7], ids=["many rows", "few rows"])
def test_bytes_saved_for_backward(kernels, bound):
    """q, k, v, out and the log-sum-exp, and the offsets that were given."""
    run, tensors = cross([5, 0, 7], 16, 1, 8, kernels.dim, max_seqlen_q=bound)
    q, k, v = (x.half().to(kernels.device).requires_grad_() for x in tensors)
    expected = (2 * q.numel() + k.numel() + v.numel()) * 2 + 12 * 8 * 4 + 4 * 4
    assert saved_bytes(lambda: run(q, k, v, backend=kernels.name)) == expected


@BOTH
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_operators_are_well_formed(kernels, packed):
    operators = getattr(torch.ops, kernels.namespace)
    _, (q, k, v) = cross([2, 3], [4, 2] if packed else 5, 1, 2, kernels.dim)
    q, k, v = (x.half().to(kernels.device) for x in (q, k, v))
    offsets, offsets_k = (cu_seqlens(lengths, kernels.device) for lengths in ([2, 3], [4, 2]))
    inputs = (q, k, v, offsets, offsets_k if packed else None, 0.2, 5)
    torch.library.opcheck(operators.cross_attention, inputs)
    out, lse = operators.cross_attention(*inputs)
    torch.library.opcheck(operators.cross_attention_backward, (out, out, lse, *inputs))


@BOTH
def test_compiles_into_one_graph(kernels):
    run, tensors = cross([2, 3], 5, 1, 2, kernels.dim, max_seqlen_q=3)
    offsets = cu_seqlens([2, 3], kernels.device)
    leaves = [x.half().to(kernels.device).requires_grad_() for x in tensors]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(q, k, v):
        return cross_attention(q, k, v, offsets, max_seqlen_q=3, backend=kernels.name).sin()

    out = compiled(*leaves)
    gradients = torch.autograd.grad(out.float().sum(), leaves)
    eager = run(*leaves, backend=kernels.name).sin()
    assert torch.equal(out, eager)
    for a, b in zip(gradients, torch.autograd.grad(eager.float().sum(), leaves), strict=True):
        assert torch.equal(a, b)


@BOTH
@pytest.mark.parametrize(("images", "pairs"), [(10, 80), ([3, 4], 4 * 7)], ids=["dense", "packed"])
def test_flops_are_counted(kernels, images, pairs):
    run, tensors = cross([4, 4], images, 2, 3, kernels.dim)
    leaves = [x.half().to(kernels.device).requires_grad_() for x in tensors]
    with FlopCounterMode(display=False) as forward:
        out = run(*leaves, backend=kernels.name)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert forward.get_total_flops() == 4 * pairs * 6 * kernels.dim
    assert backward.get_total_flops() == 10 * pairs * 6 * kernels.dim
