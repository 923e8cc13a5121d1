"""causal_attention and cross_attention: what they compute, at which sizes, and that samples never mix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hive_kernels import causal_attention, cross_attention
from hive_kernels.testing import assert_accurate, cu_seqlens, random_lengths, with_gradients
from tests.support.attention_cases import image_layout

BACKENDS = ("reference", "torch")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def causal(lengths: list[int], heads: int, groups: int, dim: int):
    """The operation over these samples and its inputs q, k, v."""
    offsets, total = cu_seqlens(lengths), sum(lengths)

    def run(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
        return causal_attention(q, k, v, offsets.to(q.device), max_seqlen=max(lengths, default=0), backend=backend)

    return run, [randn(total, h, dim, seed=i) for i, h in enumerate((heads * groups, heads, heads))]


def cross(lengths: list[int], tokens: int | list[int], heads: int, groups: int, dim: int):
    """The same; ``tokens`` is one number of visual tokens, or a list of them for packed keys."""
    offsets, total = cu_seqlens(lengths), sum(lengths)
    keys, offsets_k = image_layout(len(lengths), tokens)
    longest_k = None if isinstance(tokens, int) else max(tokens, default=0)

    def run(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
        return cross_attention(
            q,
            k,
            v,
            offsets.to(q.device),
            max_seqlen_q=max(lengths, default=0),
            cu_seqlens_k=None if offsets_k is None else offsets_k.to(q.device),
            max_seqlen_k=longest_k,
            backend=backend,
        )

    shapes = ((total, heads * groups, dim), (*keys, heads, dim), (*keys, heads, dim))
    return run, [randn(*shape, seed=i) for i, shape in enumerate(shapes)]


CASES = {
    "causal": causal([5, 0, 9, 1, 0], 2, 3, 64),
    "causal, one token each": causal([1, 1, 1], 1, 8, 32),
    "causal, equal lengths": causal([6, 6], 2, 1, 80),
    "causal, wide heads": causal([17, 3], 1, 3, 128),
    "cross": cross([5, 0, 9, 1, 0], 16, 2, 3, 64),
    "cross, 577 keys": cross([7, 1], 577, 1, 3, 64),
    "cross, one key": cross([3, 2], 1, 2, 8, 32),
    "cross, one query each": cross([1, 1, 1], 9, 2, 1, 80),
    "cross, equal lengths": cross([4, 4], 10, 2, 3, 128),
    "cross, packed keys": cross([5, 0, 9, 4, 0], [3, 7, 0, 11, 0], 2, 3, 64),
    "cross, equal packed keys": cross([5, 2], [6, 6], 1, 3, 32),
    "cross, no image at all": cross([5, 2], [0, 0], 1, 3, 32),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_torch_backend_meets_the_tolerance_rule(case, dtype):
    run, tensors = CASES[case]
    assert_accurate(run, tensors, dtype, "torch")


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 6),
    longest=st.integers(1, 12),
    tokens=st.integers(1, 20),
    heads=st.sampled_from([1, 2, 5]),
    groups=st.sampled_from([1, 3, 8]),
    dim=st.sampled_from([8, 32, 64]),
    seed=st.integers(0, 1000),
)
def test_random_packed_batches_agree_with_the_reference_in_fp64(batch, longest, tokens, heads, groups, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = random_lengths(batch, longest, generator)
    images = random_lengths(batch, tokens, generator)
    for run, tensors in (
        causal(lengths, heads, groups, dim),
        cross(lengths, tokens, heads, groups, dim),
        cross(lengths, images, heads, groups, dim),
    ):
        expected = with_gradients(run, tensors, "reference", seed)
        torch.testing.assert_close(with_gradients(run, tensors, "torch", seed), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_no_tokens_at_all(lengths, backend):
    for run, tensors in (causal(lengths, 2, 3, 32), cross(lengths, 4, 2, 3, 32), cross(lengths, lengths, 2, 3, 32)):
        out, *gradients = with_gradients(run, tensors, backend)
        assert out.shape == (0, 6, 32)
        assert all(not g.any() for g in gradients)


def test_gradcheck_of_the_references():
    for run, tensors in (
        causal([3, 0, 2], 1, 2, 3),
        cross([3, 0, 2], 4, 1, 2, 3),
        cross([3, 1, 2], [2, 0, 3], 1, 2, 3),
    ):
        leaves = [x.requires_grad_() for x in tensors]
        assert torch.autograd.gradcheck(lambda *x, run=run: run(*x, backend="reference"), leaves, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tokens", [6, [6, 6, 0, 4]], ids=["dense", "packed"])
def test_log_sum_exp(tokens, backend):
    lengths, heads, groups, dim = [3, 0, 2, 4], 2, 3, 32
    _, (q, k, v) = cross(lengths, tokens, heads, groups, dim)
    offsets_k = None if isinstance(tokens, int) else cu_seqlens(tokens)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        leaf = q.to(dtype).requires_grad_()
        args = (leaf, k.to(dtype), v.to(dtype), cu_seqlens(lengths))
        out, lse = cross_attention(*args, cu_seqlens_k=offsets_k, backend=backend, return_lse=True)
        assert torch.equal(out, cross_attention(*args, cu_seqlens_k=offsets_k, backend=backend))
        assert lse.dtype == torch.promote_types(dtype, torch.float32)
        assert lse.shape == (9, 6)
        assert not lse.requires_grad
        keys = k[0] if isinstance(tokens, int) else k[:6]  # the first sample's
        scores = torch.einsum("qhgd,khd->qhgk", q[:3].unflatten(1, (heads, groups)), keys) * dim**-0.5
        expected = scores.logsumexp(-1).flatten(1)
        torch.testing.assert_close(
            lse[:3].double(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2
        )
        if offsets_k is not None:
            assert torch.equal(lse[3:5], torch.full_like(lse[3:5], float("-inf")))
            assert not out[3:5].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_text_without_an_image_reads_zero_and_gets_no_gradient(backend):
    run, tensors = cross([2, 3, 1], [4, 0, 2], 1, 3, 32)
    out, dq, *_ = with_gradients(run, tensors, backend)
    assert not out[2:5].any()
    assert not dq[2:5].any()
    assert dq[:2].all()


@pytest.mark.parametrize("poison", [1.0, float("nan")], ids=["changed", "NaN"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["causal", "cross", "cross, packed keys"])
def test_nothing_leaks_between_samples(case, backend, poison):
    """Sample 2 changes, or turns NaN: all others' outputs and gradients keep every bit."""
    run, tensors = CASES[case]
    lengths = [5, 0, 9, 4 if "packed" in case else 1, 0]
    images = {"causal": lengths, "cross": None, "cross, packed keys": [3, 7, 0, 11, 0]}[case]
    tensors = [x.float() for x in tensors]
    changed = [x.clone() for x in tensors]
    text = slice(5, 14)
    image = slice(2, 3) if images is None else slice(sum(images[:2]), sum(images[:3]))
    for x, rows in zip(changed, (text, image, image), strict=True):
        x[rows] = x[rows] * 3 + poison
    before = with_gradients(run, tensors, backend)
    after = with_gradients(run, changed, backend)
    for a, b, rows in zip(before, after, (text, text, image, image), strict=True):
        keep = torch.ones(a.shape[0], dtype=torch.bool)
        keep[rows] = False
        assert torch.equal(a[keep], b[keep])
    assert not torch.equal(before[1][text], after[1][text]) or case == "cross, packed keys"


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_and_zero_stride_gradients(backend):
    """Heads cut out of one wide projection, and the gradient of a sum, which has no strides of its own."""
    offsets = cu_seqlens([4, 2, 0])
    wide = randn(6, 10 * 32).float()
    keys = randn(3, 5, 4 * 32).float()
    views = (
        wide[:, :192].unflatten(1, (6, 32)),
        wide[:, 192:256].unflatten(1, (2, 32)),
        wide[:, 256:].unflatten(1, (2, 32)),
    )
    seen = (views[0], keys[..., :64].unflatten(2, (2, 32)), keys[..., 64:].unflatten(2, (2, 32)))
    for run, inputs in (
        (lambda q, k, v: causal_attention(q, k, v, offsets, max_seqlen=4, backend=backend), views),
        (lambda q, k, v: cross_attention(q, k, v, offsets, backend=backend), seen),
    ):
        results = []
        for tensors in (inputs, [x.contiguous() for x in inputs]):
            leaves = [x.detach().requires_grad_() for x in tensors]
            out = run(*leaves)
            out.sum().backward()
            results.append([out.detach(), *(x.grad for x in leaves)])
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_casts_inputs_as_sdpa_does(backend):
    offsets = cu_seqlens([4, 2])
    q, k, kv = randn(6, 4, 32).float(), randn(6, 2, 32).bfloat16(), randn(2, 5, 2, 32).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = causal_attention(q, k, k.float(), offsets, max_seqlen=4, backend=backend)
        seen, lse = cross_attention(q, kv, kv, offsets, backend=backend, return_lse=True)
    assert out.dtype == seen.dtype == torch.bfloat16
    assert lse.dtype == torch.float32
    assert torch.equal(out, causal_attention(q.bfloat16(), k, k, offsets, max_seqlen=4, backend=backend))


@pytest.mark.parametrize("case", ["causal", "cross", "cross, packed keys"])
def test_meta_and_fake_tensors(case):
    run, tensors = CASES[case]
    leaves = [x.to("meta", torch.float32).requires_grad_() for x in tensors]
    out = run(*leaves, backend="torch")
    out.sum().backward()
    assert out.shape == leaves[0].shape
    assert all(x.grad is not None and x.grad.shape == x.shape for x in leaves)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        leaves = [mode.from_tensor(x.float()).requires_grad_() for x in tensors]
        out = run(*leaves, backend="torch")
        out.sum().backward()
        assert out.shape == leaves[0].shape


def test_flop_counter_sees_attention_on_a_cpu():
    run, tensors = cross([4, 4], 10, 2, 3, 32)
    leaves = [x.float().requires_grad_() for x in tensors]
    with FlopCounterMode(display=False) as forward:
        out = run(*leaves, backend="torch")
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert forward.get_total_flops() == 4 * 8 * 6 * 10 * 32
    assert backward.get_total_flops() == 10 * 8 * 6 * 10 * 32


def test_scale_and_a_bound_above_the_longest():
    offsets = cu_seqlens([3, 5])
    q, k = randn(8, 2, 16), randn(2, 4, 2, 16)
    for backend in BACKENDS:
        a = cross_attention(q, k, k, offsets, scale=0.5, max_seqlen_q=11, backend=backend)
        torch.testing.assert_close(a, cross_attention(q * 2, k, k, offsets, backend=backend))
        b = causal_attention(q, q, q, offsets, scale=0.5, max_seqlen=11, backend=backend)
        torch.testing.assert_close(b, causal_attention(q * 2, q, q, offsets, max_seqlen=5, backend=backend))


GOOD = {
    "q": torch.zeros(6, 4, 8),
    "k": torch.zeros(6, 2, 8),
    "v": torch.zeros(6, 2, 8),
    "cu_seqlens": cu_seqlens([4, 2]),
}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"q": torch.zeros(6, 8)}, r"q.shape is \(6, 8\); allowed: \(T, Hq, D\)"),
        ({"k": None}, "k is a NoneType; allowed: a tensor of shape"),
        ({"k": torch.zeros(5, 2, 8)}, r"k.shape is \(5, 2, 8\); allowed: \(6, Hkv, 8\)"),
        ({"k": torch.zeros(6, 3, 8), "v": torch.zeros(6, 3, 8)}, r"k.shape\[1\] is 3; allowed: a divisor of the 4"),
        ({"v": torch.zeros(6, 4, 8)}, r"v.shape is \(6, 4, 8\)"),
        ({"k": torch.zeros(6, 2, 8).half()}, "k.dtype is torch.float16; allowed: torch.float32"),
        ({"q": torch.zeros(6, 4, 8, dtype=torch.int32)}, "q.dtype is torch.int32"),
        ({"v": torch.zeros(6, 2, 8, device="meta")}, "v.device is meta; allowed: cpu"),
        ({"cu_seqlens": cu_seqlens([4, 2]).long()}, "cu_seqlens.dtype is torch.int64; allowed: torch.int32"),
        ({"cu_seqlens": cu_seqlens([4, 3])}, "cu_seqlens is from 0 to 7; allowed: from 0 to 6"),
        ({"cu_seqlens": cu_seqlens([4, 2]) + 1}, "cu_seqlens is from 1 to 7"),
        ({"cu_seqlens": torch.tensor([0, 5, 4, 6], dtype=torch.int32)}, "cu_seqlens is decreasing after sample 1"),
        ({"cu_seqlens": torch.zeros(0, dtype=torch.int32)}, r"cu_seqlens.shape is \(0,\)"),
        ({"cu_seqlens": torch.zeros(1, dtype=torch.int32)}, r"cu_seqlens.shape is \(1,\); .* B >= 1 for 6 packed"),
        ({"max_seqlen": 3}, "cu_seqlens is a sample of 4 tokens; allowed: at most max_seqlen = 3"),
        ({"max_seqlen": 4.0}, "max_seqlen is 4.0"),
        ({"max_seqlen": None}, "max_seqlen is None"),
        ({"backend": "cuda"}, "backend is 'cuda'.*CUDA needs a GPU.*allowed here: auto, torch, reference"),
        ({"backend": "flash"}, "backend is 'flash'; allowed: auto"),
    ],
)
def test_bad_arguments_of_causal_attention(bad, message):
    with pytest.raises(ValueError, match=message):
        causal_attention(**{**GOOD, "max_seqlen": 4, **bad})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"k": torch.zeros(3, 5, 2, 8)}, r"k.shape is \(3, 5, 2, 8\); allowed: \(2, N, Hkv, 8\)"),
        ({"k": torch.zeros(2, 0, 2, 8), "v": torch.zeros(2, 0, 2, 8)}, r"k.shape\[1\] is 0; allowed: N >= 1"),
        ({"k": torch.zeros(2, 5, 3, 8), "v": torch.zeros(2, 5, 3, 8)}, r"k.shape\[2\] is 3; allowed: a divisor"),
        ({"max_seqlen_k": 5}, "max_seqlen_k is 5; allowed: None without cu_seqlens_k"),
        ({"max_seqlen_q": 3}, "at most max_seqlen = 3"),
        ({"cu_seqlens_k": cu_seqlens([5, 5])}, r"k.shape is \(2, 5, 2, 8\); allowed: \(Tk, Hkv, 8\)"),
        (
            {"k": torch.zeros(10, 2, 8), "v": torch.zeros(10, 2, 8), "cu_seqlens_k": cu_seqlens([5, 5, 0])},
            r"cu_seqlens_k.shape is \(4,\); allowed: \(3,\)",
        ),
    ],
)
def test_bad_arguments_of_cross_attention(bad, message):
    good = {
        "q": GOOD["q"],
        "k": torch.zeros(2, 5, 2, 8),
        "v": torch.zeros(2, 5, 2, 8),
        "cu_seqlens_q": cu_seqlens([4, 2]),
    }
    with pytest.raises(ValueError, match=message):
        cross_attention(**{**good, **bad})


def test_meta_tensors_need_a_bound():
    q, k = torch.zeros(6, 2, 8, device="meta"), torch.zeros(2, 5, 2, 8, device="meta")
    with pytest.raises(ValueError, match="max_seqlen_q is None; allowed: an int on the meta device"):
        cross_attention(q, k, k, cu_seqlens([4, 2], "meta"))
