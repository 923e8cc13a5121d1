"""joint_attention: the reference against plain attention over concatenated keys, and the backends against it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hive_kernels import causal_attention, joint_attention
from hive_kernels.testing import cu_seqlens, random_lengths, saved_bytes, with_gradients
from tests.support.attention_cases import backward_twice, check, joint
from tests.support.fake_tensors import check_shapes
from tests.support.kernel_backends import TRITON

DEVICE = TRITON.device
CASES = {
    "dense": joint([24, 0, 9], 40, 1, 3, 32),
    "577 keys": joint([3], 577, 1, 1, 64),
    "one key, one token": joint([1, 1], 1, 2, 8, 80),
    "packed": joint([5, 0, 9, 4, 0], [3, 0, 2, 11, 7], 1, 3, 64),
    "no image at all": joint([25, 2], [0, 0], 1, 3, 32),
}
BIG = {
    "long": joint([77, 0, 3, 40], 577, 5, 3, 64),
    "even": joint([77, 0, 3, 40], 576, 3, 3, 64),
    "packed": joint([150, 0, 3, 40], [576, 0, 1154, 3], 2, 4, 128),
}


@pytest.mark.parametrize("dtype", TRITON.dtypes, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_triton_tolerance_rule(case, dtype):
    check(CASES[case], dtype, TRITON)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TRITON.dtypes, ids=str)
@pytest.mark.parametrize("case", BIG)
def test_triton_tolerance_rule_on_a_gpu(case, dtype):
    check(BIG[case], dtype, TRITON)


@pytest.mark.parametrize("case", BIG)
def test_shapes_at_scale(case):
    run, tensors = BIG[case]
    check_shapes(run, [x.to(DEVICE) for x in tensors], torch.float16, "triton")


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 4),
    longest=st.integers(1, 30),
    images=st.integers(1, 40),
    group=st.sampled_from([1, 3, 8]),
    dim=st.sampled_from([16, 40, 64]),
    packed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_random_packed_batches(batch, longest, images, group, dim, packed, seed):
    generator = torch.Generator().manual_seed(seed)
    texts = random_lengths(batch, longest, generator)
    case = joint(texts, random_lengths(batch, images, generator) if packed else images, 1, group, dim)
    run, tensors = case
    results = [with_gradients(run, tensors, backend) for backend in ("torch", "reference")]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)
    check(case, torch.float32, TRITON)


def test_the_reference_is_one_softmax_over_both():
    run, (q, kt, vt, ki, vi) = joint([4, 2], 5, 2, 3, 16)
    out = run(q, kt, vt, ki, vi, backend="reference")
    mask = torch.ones(4, 9, dtype=torch.bool).tril(5)
    keys, values = (torch.cat([image[0], text[:4]]).transpose(0, 1) for image, text in ((ki, kt), (vi, vt)))
    expected = F.scaled_dot_product_attention(q[:4].transpose(0, 1), keys, values, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(out[:4], expected.transpose(0, 1))


@pytest.mark.parametrize("backend", ["reference", "torch", "triton"])
def test_without_images_it_is_causal_attention(backend):
    run, (q, kt, vt, ki, vi) = joint([4, 0, 9], [0, 0, 0], 2, 3, 32)
    q, kt, vt, ki, vi = (x.float().to(DEVICE) for x in (q, kt, vt, ki, vi))
    expected = causal_attention(q, kt, vt, cu_seqlens([4, 0, 9], DEVICE), max_seqlen=9, backend="reference")
    torch.testing.assert_close(run(q, kt, vt, ki, vi, backend=backend), expected)


def test_gradcheck_of_the_reference():
    for images in (3, [2, 0, 3]):
        run, tensors = joint([3, 0, 2], images, 1, 2, 3)
        leaves = [x.requires_grad_() for x in tensors]
        assert torch.autograd.gradcheck(lambda *x, run=run: run(*x, backend="reference"), leaves, fast_mode=True)


@pytest.mark.parametrize("backend", ["reference", "torch", "triton"])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_no_tokens_at_all(lengths, backend):
    run, tensors = joint(lengths, 4, 2, 3, 32)
    out, *gradients = with_gradients(run, [x.half().to(DEVICE) for x in tensors], backend)
    assert out.shape == (0, 6, 32)
    assert all(not g.any() for g in gradients)


@pytest.mark.parametrize("backend", ["reference", "torch", "triton"])
def test_the_future_and_other_samples_are_not_seen(backend):
    """Token 4 of sample 1 changes: what is not after it keeps every bit. It turns NaN: other samples do."""
    run, tensors = joint([3, 9, 2], 5, 1, 3, 32)
    tensors = [x.half().to(DEVICE) for x in tensors]
    before = run(*tensors, backend=backend)
    for poison, keep in ((3.0, [0, 1, 2, 3, 4, 5, 6, 12, 13]), (float("nan"), [0, 1, 2, 12, 13])):
        changed = [x.clone() for x in tensors]
        changed[1][7] += poison
        changed[2][7] += poison
        after = run(*changed, backend=backend)
        assert torch.equal(before[keep], after[keep])
        assert (before[7:12] != after[7:12]).any(1).any(1).all()


def test_two_runs_agree_in_every_bit():
    backward_twice(CASES["packed"], torch.float16, TRITON)


@pytest.mark.gpu
def test_two_runs_agree_in_every_bit_on_a_gpu():
    backward_twice(BIG["long"], torch.bfloat16, TRITON)


def test_bytes_saved_for_backward():
    """The five inputs, out and the log-sum-exp, and the offsets that were given."""
    run, tensors = joint([5, 0, 9], 16, 2, 3, 32)
    leaves = [x.half().to(DEVICE).requires_grad_() for x in tensors]
    expected = (leaves[0].numel() + sum(x.numel() for x in leaves)) * 2 + 14 * 6 * 4 + 4 * 4
    assert saved_bytes(lambda: run(*leaves, backend="triton")) == expected


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_operators_are_well_formed(packed):
    _, tensors = joint([2, 3], [4, 2] if packed else 5, 1, 2, 32)
    offsets = cu_seqlens([4, 2], DEVICE) if packed else None
    inputs = (*[x.half().to(DEVICE) for x in tensors], cu_seqlens([2, 3], DEVICE), offsets, 0.2, 5)
    torch.library.opcheck(torch.ops.hive_kernels.joint_attention, inputs)
    out, lse = torch.ops.hive_kernels.joint_attention(*inputs)
    torch.library.opcheck(torch.ops.hive_kernels.joint_attention_backward, (out, out, lse, *inputs))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_compiles_into_one_graph(backend):
    run, tensors = joint([2, 3], 5, 1, 2, 32)
    offsets = cu_seqlens([2, 3], DEVICE)
    leaves = [x.half().to(DEVICE).requires_grad_() for x in tensors]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(q: Tensor, k_text: Tensor, v_text: Tensor, k_image: Tensor, v_image: Tensor) -> Tensor:
        return joint_attention(q, k_text, v_text, k_image, v_image, offsets, max_seqlen=3, backend=backend).sin()

    eager = run(*leaves, backend=backend).sin()
    gradients = [torch.autograd.grad(out.float().sum(), leaves) for out in (compiled(*leaves), eager)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_flops_are_counted():
    run, tensors = joint([4, 2], 10, 2, 3, 32)
    leaves = [x.half().to(DEVICE).requires_grad_() for x in tensors]
    with FlopCounterMode(display=False) as forward:
        out = run(*leaves, backend="triton")
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    pairs = 6 * 10 + 4 * 4 + 2 * 2
    assert forward.get_total_flops() == 4 * pairs * 6 * 32
    assert backward.get_total_flops() == 10 * pairs * 6 * 32


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"q": torch.zeros(6, 8)}, r"q.shape is \(6, 8\); allowed: \(T, Hq, D\)"),
        ({"k_text": torch.zeros(5, 2, 8)}, r"k_text.shape is \(5, 2, 8\); allowed: \(6, Hkv, 8\)"),
        ({"v_text": torch.zeros(6, 1, 8)}, r"v_text.shape is \(6, 1, 8\); allowed: \(6, 2, 8\)"),
        ({"k_image": torch.zeros(2, 5, 1, 8)}, r"k_image.shape is \(2, 5, 1, 8\); allowed: \(2, N, 2, 8\)"),
        ({"v_image": torch.zeros(2, 4, 2, 8)}, r"v_image.shape is \(2, 4, 2, 8\); allowed: \(2, 5, 2, 8\)"),
        ({"q": torch.zeros(6, 3, 8)}, r"k_text.shape\[1\] is 2; allowed: a divisor of the 3 query heads"),
        ({"k_image": torch.zeros(2, 5, 2, 8).half()}, "k_image.dtype is torch.float16; allowed: torch.float32"),
        ({"cu_seqlens": cu_seqlens([4, 3])}, "cu_seqlens is from 0 to 7; allowed: from 0 to 6"),
        ({"max_seqlen": 3}, "cu_seqlens is a sample of 4 tokens; allowed: at most max_seqlen = 3"),
        ({"max_seqlen_image": 3}, "max_seqlen_image is 3; allowed: None without cu_seqlens_image"),
        ({"cu_seqlens_image": cu_seqlens([5, 5])}, r"k_image.shape is \(2, 5, 2, 8\); allowed: \(Tk, 2, 8\)"),
    ],
)
def test_bad_arguments(bad, message):
    good = {
        "q": torch.zeros(6, 4, 8),
        **dict.fromkeys(("k_text", "v_text"), torch.zeros(6, 2, 8)),
        **dict.fromkeys(("k_image", "v_image"), torch.zeros(2, 5, 2, 8)),
        "cu_seqlens": cu_seqlens([4, 2]),
    }
    with pytest.raises(ValueError, match=message):
        joint_attention(**{**good, **bad})
