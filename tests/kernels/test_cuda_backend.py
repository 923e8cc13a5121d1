"""What only the CUDA backend has: texts that no block holds, launch shapes, an emulator's view of races and banks.

Tests that take ``kernels`` run in the emulator and, marked ``gpu``, on a GPU. All others look into the emulator.
"""

import pytest
import torch

from hive_kernels import cross_attention, selfcheck
from hive_kernels.testing import cu_seqlens, with_gradients
from tests.support.attention_cases import check, cross, randn
from tests.support.kernel_backends import CUDA, EMULATED, ON_BOTH_DEVICES, prepare, settings

RTX_3090 = 101376  # bytes of shared memory that a block may have


@pytest.fixture(autouse=True)
def _prepared(request, monkeypatch):
    on_a_device = "kernels" in request.fixturenames
    prepare(request.getfixturevalue("kernels") if on_a_device else EMULATED, monkeypatch)


def last_launch() -> list[int]:
    """Blocks along x and y, threads, bytes of shared memory."""
    return settings().hive_emulator_last_launch()[:4]


# Texts of more rows than a block holds: 256, and 64 of wide heads. Two or three blocks of rows, packed keys too.
LONG = {
    "two blocks of rows": cross([90, 3, 0], 65, 1, 3, 64),
    "more samples than places": cross([86, 3, 0, 0, 88], 65, 1, 3, 64),
    "three of wide heads": cross([44, 0, 2], 70, 2, 3, 128),
    "packed keys": cross([100, 90, 0, 9], [3, 131, 70, 0], 1, 3, 64),
    "rows that fill blocks": cross([16, 8], 70, 1, 8, 128),
}


@pytest.mark.parametrize("dtype", CUDA.dtypes, ids=str)
@pytest.mark.parametrize("case", LONG)
@ON_BOTH_DEVICES
def test_texts_that_no_block_holds(kernels, case, dtype):
    check(LONG[case], dtype, kernels)


@ON_BOTH_DEVICES
def test_more_samples_than_a_block_has_threads(kernels):
    """Over one key, every token reads that key's value."""
    lengths = [1, 0, 2] * 45
    q, k, v = (randn(135, *shape).half().to(kernels.device) for shape in ((1, 64), (1, 1, 64), (1, 1, 64)))
    out = cross_attention(q, k, v, cu_seqlens(lengths, kernels.device), backend="cuda")
    assert torch.equal(out, v[:, 0].repeat_interleave(torch.tensor(lengths, device=kernels.device), dim=0))


@pytest.mark.parametrize("case", [*LONG, "few rows"])
def test_results_do_not_depend_on_timing(case):
    """A barrier that is missing shows in one of two orders of warps, or where copies land before others have read."""
    run, tensors = LONG.get(case) or cross([5, 0, 9], 70, 2, 3, 64, max_seqlen_q=9)
    results = []
    for last_warp_first, copies_at_once in ((False, True), (True, False), (False, False)):
        settings().hive_emulator_timing(last_warp_first, copies_at_once)
        results.append(with_gradients(run, [x.half() for x in tensors], "cuda"))
    for a, b, c in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(b, c)


@pytest.mark.parametrize("dim", [64, 128])
def test_matrices_are_read_without_bank_conflicts(dim):
    before = settings().hive_emulator_bank_conflicts()
    run, tensors = cross([40, 3], 70, 1, 3, dim)
    with_gradients(run, [x.half() for x in tensors], "cuda")
    assert settings().hive_emulator_bank_conflicts() == before


@pytest.mark.parametrize(
    ("longest", "group", "dim", "threads"),
    [(21, 3, 64, 128), (64, 1, 64, 128), (65, 1, 64, 256), (85, 3, 64, 256), (200, 3, 64, 256), (9, 3, 128, 256)],
)
def test_launch_shapes(longest, group, dim, threads):
    run, tensors = cross([longest, 0, 1], 10, 2, group, dim, max_seqlen_q=longest)
    q, k, v = (x.half().requires_grad_() for x in tensors)
    out = run(q, k, v, backend="cuda")
    assert last_launch() == [(longest + 1) * group // 64 + 3, 2, 128, 3 * 64 * dim * 2]
    out.sum().backward()
    *grid, used, shared = last_launch()
    assert grid == [3, 2]  # samples, key heads
    assert used == threads
    assert shared <= RTX_3090


def test_two_small_blocks_share_a_multiprocessor():
    """Captions of up to 64 rows: 100 KB of an RTX 3090's, of which each block takes 1 KB more than it asks for."""
    run, tensors = cross([9], 10, 1, 3, 64, max_seqlen_q=9)
    with_gradients(run, [x.half() for x in tensors], "cuda")
    assert 2 * (last_launch()[3] + 1024) <= 100 * 1024


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("q", torch.zeros(5, 6, 1, 64).half()),
        ("q", torch.zeros(5, 6, 128).half()),
        ("k", torch.zeros(2, 7, 2, 64)),
        ("k", torch.zeros(3, 7, 2, 64).half()),
        ("v", torch.zeros(2, 6, 2, 64).half()),
        ("offsets_q", torch.tensor([0, 2, 5])),
        ("offsets_k", torch.zeros(3, dtype=torch.int32)),
        ("out", torch.zeros(4, 6, 64).half()),
        ("grad", torch.zeros(5, 6, 64)),
        ("lse", torch.zeros(5, 6).half()),
        ("longest", -1),
    ],
)
@ON_BOTH_DEVICES
def test_operators_refuse_what_would_lead_kernels_outside(kernels, name, argument):
    """Called past the public function."""
    out, keys = torch.zeros(5, 6, 64).half(), torch.zeros(2, 7, 2, 64).half()
    given: dict[str, object] = {"grad": out, "out": out, "lse": torch.zeros(5, 6), "q": out, "k": keys, "v": keys}
    given |= {"offsets_q": cu_seqlens([2, 3]), "offsets_k": None, "scale": 1.0, "longest": 3}
    given, wrong = (
        {key: x.to(kernels.device) if isinstance(x, torch.Tensor) else x for key, x in arguments.items()}
        for arguments in (given, {name: argument})
    )
    torch.ops.hive_kernels_cuda.cross_attention_backward(*given.values())
    with pytest.raises(RuntimeError, match="hive_kernels_cuda: "):
        torch.ops.hive_kernels_cuda.cross_attention_backward(*(given | wrong).values())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([torch.zeros(2, 2, 64), torch.zeros(1, 3, 1, 64)], "q.dtype is torch.float32; allowed: torch.float16"),
        ([torch.zeros(2, 2, 32).half(), torch.zeros(1, 3, 1, 32).half()], r"q.shape\[2\] is 32; allowed: 64 or 128"),
    ],
)
@ON_BOTH_DEVICES
def test_what_it_does_not_serve(kernels, tensors, message):
    q, k = (x.to(kernels.device) for x in tensors)
    with pytest.raises(ValueError, match=message):
        cross_attention(q, k, k, cu_seqlens([2], kernels.device), backend="cuda")


@ON_BOTH_DEVICES
def test_views_that_16_bytes_do_not_fit_are_copied(kernels):
    """By where they begin, or by a stride."""
    wide, k, v = (randn(*shape).half().to(kernels.device) for shape in ((6, 6 * 64 + 1), (2, 5, 2, 72), (2, 5, 2, 65)))
    views = [wide[:, 1:].unflatten(1, (6, 64)), k[..., 1:65], v[..., :64]]
    run, _ = cross([4, 2], 5, 2, 3, 64)
    results = [with_gradients(run, x, "cuda") for x in (views, [x.contiguous() for x in views])]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@ON_BOTH_DEVICES
def test_the_selfcheck_covers_every_shape_of_its_kernels(kernels):
    results = selfcheck.run(kernels.device, "cuda")
    attention = {f"cross_attention{case}" for case in ("", ", wide heads", ", short texts")}
    assert {name for name, _, _ in results} == attention | {"gated_residual"}
    assert {dtype for _, dtype, _ in results} == set(CUDA.dtypes)
