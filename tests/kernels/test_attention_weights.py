"""cross_attention_weights: attention maps that agree with the attention they belong to."""

import pytest
import torch

from hive_kernels import cross_attention, cross_attention_weights
from hive_kernels.launch import INTERPRETED
from hive_kernels.testing import cu_seqlens
from tests.support.attention_cases import randn

DEVICE = "cpu" if INTERPRETED else "cuda"
TEXTS, TOKENS = [5, 0, 9, 4], [13, 0, 3, 3]  # tokens of the third, first, and twice of the first sample


def inputs(images, dtype, device):
    """q, k, lse, offsets of texts and, strided, of images, and the reference's attention output with v = k."""
    offsets = cu_seqlens(TEXTS, device)
    offsets_k = None if isinstance(images, int) else cu_seqlens(images, device).repeat_interleave(2)[::2]
    keys = (len(TEXTS), images) if isinstance(images, int) else (sum(images),)
    q, k = (x.to(device, dtype) for x in (randn(sum(TEXTS), 6, 40), randn(*keys, 2, 40)))
    out, lse = cross_attention(q, k, k, offsets, cu_seqlens_k=offsets_k, backend="reference", return_lse=True)
    return q, k, lse, offsets, offsets_k, out


def expect(images, dtype, device, backend, tolerance):
    q, k, lse, offsets, offsets_k, out = inputs(images, dtype, device)
    tokens = torch.tensor(TOKENS, device=device)
    options = {"tokens": tokens, "cu_seqlens_k": offsets_k, "backend": backend}
    weights = cross_attention_weights(q, k, lse, offsets, **options)
    width = images if isinstance(images, int) else max(images)
    assert weights.shape == (4, 6, width)
    assert weights.dtype == lse.dtype
    for row, token in enumerate(TOKENS):
        sample = 0 if token < 5 else 2
        seen = slice(sum(images[:sample]), sum(images[: sample + 1])) if offsets_k is not None else sample
        values = k[seen].repeat_interleave(3, 1).to(weights.dtype)
        assert not weights[row, :, values.shape[0] :].any()
        read = torch.einsum("hn,nhd->hd", weights[row, :, : values.shape[0]], values)
        torch.testing.assert_close(read, out[token].to(read.dtype), rtol=tolerance, atol=tolerance)
    mean = cross_attention_weights(q, k, lse, offsets, head_mean=True, **options)
    torch.testing.assert_close(mean, weights.mean(1))
    return weights


@pytest.mark.parametrize("images", [70, [3, 2, 0, 5], [3, 2, 70, 5]], ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "triton"])
def test_weights_times_values_are_the_output(images, backend):
    expect(images, torch.float32, DEVICE, backend, 1e-5)
    expect(images, torch.float16, DEVICE, backend, 2e-3)


def test_backends_agree_in_fp64():
    a, b = (expect([3, 2, 0, 5], torch.float64, "cpu", backend, 1e-12) for backend in ("reference", "torch"))
    torch.testing.assert_close(a, b)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_on_a_gpu(dtype):
    expect(577, dtype, "cuda", "triton", 1e-4 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("backend", ["reference", "torch", "triton"])
def test_no_tokens_and_no_images(backend):
    q, k, lse, offsets, offsets_k, _ = inputs([0, 0, 0, 0], torch.float32, DEVICE)
    for tokens in ([], [0, 17]):
        weights = cross_attention_weights(
            q, k, lse, offsets, tokens=torch.tensor(tokens, dtype=torch.int64, device=DEVICE), cu_seqlens_k=offsets_k,
            max_seqlen_k=3, backend=backend,
        )  # fmt: skip
        assert weights.shape == (len(tokens), 6, 3)
        assert not weights.any()


def test_operator_is_well_formed_and_compiles():
    q, k, lse, offsets, _, _ = inputs(5, torch.float16, DEVICE)
    tokens, samples = torch.tensor([13, 3], device=DEVICE), torch.tensor([2, 0], device=DEVICE)
    arguments = (q, k, lse, tokens, samples, None, 0.2, 5, True)
    torch.library.opcheck(torch.ops.hive_kernels.cross_attention_weights, arguments)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(q, k):
        return cross_attention_weights(q, k, lse, offsets, tokens=tokens, scale=0.2, backend="triton", head_mean=True)

    assert torch.equal(compiled(q, k), torch.ops.hive_kernels.cross_attention_weights(*arguments))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"tokens": torch.tensor([18])}, "tokens is with 18; allowed: 0 to 17, the packed tokens"),
        ({"tokens": torch.tensor([1], dtype=torch.int32)}, "tokens.dtype is torch.int32; allowed: torch.int64"),
        ({"tokens": [1]}, "tokens is a list; allowed: a tensor of shape"),
        ({"lse": torch.zeros(18, 5)}, r"lse.shape is \(18, 5\); allowed: \(18, 6\)"),
        ({"lse": torch.zeros(18, 6).half()}, "lse.dtype is torch.float16; allowed: torch.float32"),
        ({"k": torch.zeros(3, 5, 2, 40)}, r"k.shape is \(3, 5, 2, 40\); allowed: \(4, N, Hkv, 40\)"),
        ({"k": torch.zeros(4, 5, 4, 40)}, r"k.shape\[2\] is 4; allowed: a divisor of the 6"),
        ({"max_seqlen_k": 5}, "max_seqlen_k is 5; allowed: None without cu_seqlens_k"),
    ],
)
def test_bad_arguments(bad, message):
    q, k, lse, offsets, _, _ = inputs(5, torch.float32, "cpu")
    good = {"q": q, "k": k, "lse": lse, "cu_seqlens_q": offsets, "tokens": torch.tensor([0])}
    with pytest.raises(ValueError, match=message):
        cross_attention_weights(**{**good, **bad})
