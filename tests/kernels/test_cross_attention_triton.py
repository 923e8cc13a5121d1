"""cross_attention's Triton kernels: in the interpreter without a GPU, compiled with one."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from hive_kernels import cross_attention
from hive_kernels.backends import INTERPRETED
from hive_kernels.cross_attention import tiles, tuning
from hive_kernels.cross_attention.tile_table import TABLE
from hive_kernels.testing import cu_seqlens, random_lengths, saved_bytes, with_gradients
from tests.kernels.attention_cases import DTYPES, GPU, GPU_DTYPES, backward_twice, check, cross, randn

DEVICE = "cpu" if INTERPRETED else "cuda"
FENCE = 4096  # elements

# Texts of more than 64 packed rows, or without a bound, go through two backward kernels, others through one.
CASES = {
    "two kernels": cross([23, 0, 2], 40, 1, 3, 32),
    "one kernel": cross([5, 0, 9], 40, 2, 3, 32, max_seqlen_q=9),
    "even tiles": cross([22], 64, 1, 3, 64),
    "577 keys": cross([22], 577, 1, 3, 64, max_seqlen_q=22),
    "577 keys, one kernel": cross([3], 577, 1, 3, 64, max_seqlen_q=3),
    "one key": cross([3, 2], 1, 2, 8, 32),
    "one query each": cross([1, 1, 1], 9, 2, 1, 80, max_seqlen_q=1),
    "group of 8": cross([9, 1], 33, 1, 8, 128),
    "96 wide": cross([2, 3], 9, 1, 1, 96),
    "packed keys": cross([24, 0, 9, 4, 0], [3, 45, 0, 11, 0], 1, 3, 64),
    "packed keys, one kernel": cross([5, 0, 9, 4, 0], [3, 70, 0, 11, 0], 2, 3, 80, max_seqlen_q=9),
    "no image at all": cross([25, 2], [0, 0], 1, 3, 32),
    "no image at all, one kernel": cross([5, 2], [0, 0], 1, 3, 32, max_seqlen_q=5),
}
BIG = {
    "long": cross([77, 0, 3, 40], 577, 5, 3, 64),
    "long, even": cross([77, 0, 3, 40], 576, 5, 3, 64, max_seqlen_q=77),
    "short": cross([21, 0, 3, 20], 577, 5, 3, 64, max_seqlen_q=21),
    "long packed": cross([77, 0, 3, 40], [576, 0, 1154, 3], 3, 3, 64),
    "groups of 4, 128 wide": cross([50, 9], 100, 2, 4, 128),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_tolerance_rule(case, dtype):
    check(CASES[case], dtype, DEVICE)


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", GPU_DTYPES, ids=str)
@pytest.mark.parametrize("case", [*CASES, *BIG])
def test_tolerance_rule_on_a_gpu(case, dtype):
    check((CASES | BIG)[case], dtype, "cuda")


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 4),
    longest=st.integers(1, 30),
    images=st.integers(1, 70),
    heads=st.integers(1, 2),
    group=st.sampled_from([1, 3, 8]),
    dim=st.sampled_from([16, 32, 40, 64]),
    packed=st.booleans(),
    bounded=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_random_packed_batches(batch, longest, images, heads, group, dim, packed, bounded, seed):
    generator = torch.Generator().manual_seed(seed)
    texts = random_lengths(batch, longest, generator)
    tokens = random_lengths(batch, images, generator) if packed else images
    bounds = {"max_seqlen_q": longest} if bounded else {}
    check(cross(texts, tokens, heads, group, dim, **bounds), torch.float32, DEVICE)


@pytest.mark.parametrize("case", ["two kernels", "packed keys, one kernel"])
def test_two_runs_agree_in_every_bit(case):
    backward_twice(CASES[case], torch.float16, DEVICE)


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("case", BIG)
def test_two_runs_agree_in_every_bit_on_a_gpu(case):
    backward_twice(BIG[case], torch.bfloat16, "cuda")


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_no_tokens_at_all(lengths):
    for images in (4, lengths):
        run, tensors = cross(lengths, images, 2, 3, 32)
        out, *gradients = with_gradients(run, [x.half().to(DEVICE) for x in tensors], "triton")
        assert out.shape == (0, 6, 32)
        assert all(not g.any() for g in gradients)


def test_without_tokens_too_forward_comes_before_backward(monkeypatch):
    """The first launch checks the device, which it can't in autograd's thread."""
    from hive_kernels.cross_attention import triton_kernels

    names = []
    monkeypatch.setattr(triton_kernels, "ready", lambda name, *_: names.append(name) or nullcontext())
    run, tensors = cross([0, 0], 4, 2, 3, 32)
    with_gradients(run, [x.half().to(DEVICE) for x in tensors], "triton")
    assert names == ["attention.forward", "attention.key_gradient"]


def test_log_sum_exp_and_texts_without_an_image():
    q, k = randn(9, 6, 32).float().to(DEVICE), randn(16, 2, 32).float().to(DEVICE)
    offsets, offsets_k = cu_seqlens([3, 2, 4], DEVICE), cu_seqlens([6, 0, 10], DEVICE)
    expected = cross_attention(q, k, k, offsets, cu_seqlens_k=offsets_k, backend="reference", return_lse=True)
    leaf = q.clone().requires_grad_()
    out, lse = cross_attention(leaf, k, k, offsets, cu_seqlens_k=offsets_k, backend="triton", return_lse=True)
    torch.testing.assert_close((out, lse), expected)
    assert not out[3:5].any()
    assert (lse[3:5] == float("-inf")).all()
    assert not lse.requires_grad
    out.sum().backward()
    assert not leaf.grad[3:5].any()
    assert leaf.grad[:3].all()


@pytest.mark.parametrize("poison", [1.0, float("nan")], ids=["changed", "NaN"])
@pytest.mark.parametrize("bound", [None, 7], ids=["two kernels", "one kernel"])
def test_nothing_leaks_between_samples(bound, poison):
    """Sample 1 changes, or turns NaN: all others' outputs and gradients keep every bit."""
    run, tensors = cross([3, 7, 2], [5, 7, 3], 1, 8, 32, max_seqlen_q=bound)
    tensors = [x.half().to(DEVICE) for x in tensors]
    text, image = slice(3, 10), slice(5, 12)
    changed = [x.clone() for x in tensors]
    for x, rows in zip(changed, (text, image, image), strict=True):
        x[rows] = x[rows] * 3 + poison
    before, after = (with_gradients(run, x, "triton") for x in (tensors, changed))
    for a, b, rows in zip(before, after, (text, text, image, image), strict=True):
        keep = torch.ones(a.shape[0], dtype=torch.bool)
        keep[rows] = False
        assert torch.equal(a[keep], b[keep])


def test_keys_and_values_in_one_tensor_and_a_gradient_without_strides():
    """As the engine has them: k and v are slices of [B, N, 2, Hkv, D], q is a slice of a wider projection."""
    offsets = cu_seqlens([4, 2, 0], DEVICE)
    wide, pair = randn(6, 10, 32).half().to(DEVICE), randn(3, 5, 2, 2, 32).half().to(DEVICE)
    results = []
    for copied in (False, True):
        views = [wide[:, 3:9], pair[:, :, 0], pair[:, :, 1], pair.transpose(3, 4).contiguous().transpose(3, 4)[:, :, 1]]
        leaves = [(x.contiguous() if copied else x).detach().requires_grad_() for x in views]
        q, k, v, strided = leaves
        out = sum(cross_attention(q, k, x, offsets, backend="triton") for x in (v, strided))
        out.sum().backward()
        results.append([out.detach(), *(x.grad for x in leaves)])
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_samples_more_than_2_31_elements_apart():
    """Address space is reserved, and only what is read and written of it is touched."""
    apart = 2**31 + 64
    storage = torch.empty(apart + 3 * 32, dtype=torch.float16, device=DEVICE)
    q, k = randn(2, 1, 32).half().to(DEVICE), storage.as_strided((2, 3, 1, 32), (apart, 32, 32, 1))
    k.copy_(randn(2, 3, 1, 32))
    offsets = cu_seqlens([1, 1], DEVICE)
    expected = cross_attention(q, k.clone(), k.clone(), offsets, backend="triton")
    assert torch.equal(cross_attention(q, k, k, offsets, backend="triton"), expected)


@contextmanager
def fences() -> Iterator[list[torch.Tensor]]:
    """Tensors that torch.empty makes inside are 0 and lie between NaNs; gives them whole."""
    whole, original = [], torch.empty

    def empty(shape, **kwargs):
        size = math.prod(shape)
        whole.append(original(size + 2 * FENCE, **kwargs).fill_(float("nan")))
        return whole[-1][FENCE : FENCE + size].zero_().view(shape)

    torch.empty = empty
    try:
        yield whole
    finally:
        torch.empty = original


@pytest.mark.parametrize("offsets", [[0, 5, 3, 90], [-7, 2, 4, 6], [3, 1, 0, 0], [0, 6, 6, 2**30]], ids=str)
@pytest.mark.parametrize("bound", [4, 300], ids=["one kernel", "two kernels"])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_wrong_offsets_never_reach_outside(offsets, packed, bound):
    """Past the checks, as on a GPU. What lies around the tensors is NaN: read, it shows; overwritten, it is missed."""
    cu = torch.tensor(offsets, dtype=torch.int32, device=DEVICE)
    with fences() as whole:
        q = torch.empty((6, 16, 32), dtype=torch.float32, device=DEVICE).fill_(0.25)
        keys = torch.empty((6, 1, 32) if packed else (3, 5, 1, 32), dtype=torch.float32, device=DEVICE).fill_(0.25)
        inputs = (q, keys, keys, cu, cu if packed else None, 1.0, bound)
        out, lse = torch.ops.hive_kernels.cross_attention(*inputs)
        torch.ops.hive_kernels.cross_attention_backward(torch.ones_like(out), out, lse.nan_to_num(), *inputs)
    for x in whole:
        assert x[:FENCE].isnan().all()
        assert x[-FENCE:].isnan().all()
        assert not x[FENCE:-FENCE].isnan().any()


@pytest.mark.parametrize("bound", [None, 7], ids=["two kernels", "one kernel"])
def test_backward_allocates_its_results_and_delta(bound):
    run, tensors = cross([5, 0, 7], 16, 1, 8, 32, max_seqlen_q=bound)
    q, k, v = (x.half().to(DEVICE).requires_grad_() for x in tensors)
    out = run(q, k, v, backend="triton")
    with fences() as whole:
        out.backward(torch.ones_like(out))
    delta = [] if bound else [12 * 8]
    assert [x.numel() - 2 * FENCE for x in whole] == [q.numel(), k.numel(), v.numel(), *delta]


@pytest.mark.parametrize("bound", [None, 7], ids=["two kernels", "one kernel"])
def test_bytes_saved_for_backward(bound):
    """q, k, v, out and the log-sum-exp, and the offsets that were given."""
    run, tensors = cross([5, 0, 7], 16, 1, 8, 32, max_seqlen_q=bound)
    q, k, v = (x.half().to(DEVICE).requires_grad_() for x in tensors)
    expected = (2 * q.numel() + k.numel() + v.numel()) * 2 + 12 * 8 * 4 + 4 * 4
    assert saved_bytes(lambda: run(q, k, v, backend="triton")) == expected


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_operators_are_well_formed(packed):
    _, (q, k, v) = cross([2, 3], [4, 2] if packed else 5, 1, 2, 32)
    q, k, v = (x.half().to(DEVICE) for x in (q, k, v))
    inputs = (q, k, v, cu_seqlens([2, 3], DEVICE), cu_seqlens([4, 2], DEVICE) if packed else None, 0.2, 5)
    torch.library.opcheck(torch.ops.hive_kernels.cross_attention, inputs)
    out, lse = torch.ops.hive_kernels.cross_attention(*inputs)
    torch.library.opcheck(torch.ops.hive_kernels.cross_attention_backward, (out, out, lse, *inputs))


def test_compiles_into_one_graph():
    run, tensors = cross([2, 3], 5, 1, 2, 32, max_seqlen_q=3)
    offsets = cu_seqlens([2, 3], DEVICE)
    leaves = [x.half().to(DEVICE).requires_grad_() for x in tensors]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(q, k, v):
        return cross_attention(q, k, v, offsets, max_seqlen_q=3, backend="triton").sin()

    out = compiled(*leaves)
    gradients = torch.autograd.grad(out.float().sum(), leaves)
    eager = run(*leaves, backend="triton").sin()
    assert torch.equal(out, eager)
    for a, b in zip(gradients, torch.autograd.grad(eager.float().sum(), leaves), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("images", "pairs"), [(10, 80), ([3, 4], 4 * 7)], ids=["dense", "packed"])
def test_flops_are_counted(images, pairs):
    run, tensors = cross([4, 4], images, 2, 3, 32)
    leaves = [x.half().to(DEVICE).requires_grad_() for x in tensors]
    with FlopCounterMode(display=False) as forward:
        out = run(*leaves, backend="triton")
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert forward.get_total_flops() == 4 * pairs * 6 * 32
    assert backward.get_total_flops() == 10 * pairs * 6 * 32


@pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_dtypes_that_the_kernels_do_not_serve(dtype):
    run, tensors = CASES["one key"]
    with pytest.raises(ValueError, match=f"dtype is {dtype}; allowed: torch.float16"):
        run(*[x.to(dtype) for x in tensors], backend="triton")


def test_heads_that_are_too_wide():
    run, tensors = cross([1], 1, 1, 1, 160)
    with pytest.raises(ValueError, match=r"q.shape\[2\] is 160; allowed: at most 128"):
        run(*[x.half().to(DEVICE) for x in tensors], backend="triton")


def test_tile_table():
    assert tuning.render() == tuning.TABLE_FILE.read_text()
    gpus = {key[1] for key in TABLE}
    assert gpus >= {80, 86, 89, 90, 100, 120}
    for role in tiles.ROLES:
        for gpu in gpus:
            for dtype in GPU_DTYPES:
                for dim in (32, 64, 80, 96, 128):
                    for rows in (3, 64, 65):
                        assert tiles.lookup(role, gpu, dtype, dim, rows).keys >= 0
    key = tiles.table_key("forward", 86, torch.float16, 64, 64)
    assert key == ("forward", 86, 16, 64, "short")
    assert tiles.lookup("forward", 87, torch.float16, 64, 64) == tiles.Tile(*TABLE[key])
    assert tiles.lookup("forward", 0, torch.float16, 64, 64) == tiles.lookup("forward", 80, torch.float16, 64, 64)
    with pytest.raises(ValueError, match=r"compute capability is 7.5; allowed: 8.0 or above"):
        tiles.lookup("forward", 75, torch.float16, 64, 64)


def test_what_the_tuner_measures_runs(monkeypatch):
    small = {"BATCH": 1, "KEYS": 9, "HEADS": 1, "CAPTIONS": ((22, tiles.ROLES[:3]), (5, tiles.ROLES))}
    for name, value in {**small, "DTYPE": torch.float16}.items():
        monkeypatch.setattr(tuning, name, value)
    names = []
    for choice in tuning.choices(torch.device(DEVICE)):
        names.append(choice.name)
        assert choice.key[0] in tiles.ROLES
        assert len(choice.candidates) > 1
        assert all(not x.isnan().any() for x in choice.call())
    assert len(set(names)) == len(names) == 2 * 7
