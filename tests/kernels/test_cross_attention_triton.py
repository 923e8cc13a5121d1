"""What only cross_attention's Triton kernels have: tile tables, odd head widths, allocations that Python makes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch

from hive_kernels.attention import tiles, tuning
from hive_kernels.attention.tiles import TABLE
from hive_kernels.launch import INTERPRETED
from hive_kernels.testing import with_gradients
from tests.support.attention_cases import check, cross
from tests.support.kernel_backends import TRITON

DEVICE = TRITON.device
FENCE = 4096  # elements

ODD = {
    "one query each, 80 wide": cross([1, 1, 1], 9, 2, 1, 80, max_seqlen_q=1),
    "96 wide": cross([2, 3], 9, 1, 1, 96),
    "packed keys, 80 wide": cross([5, 0, 9, 4, 0], [3, 70, 0, 11, 0], 2, 3, 80, max_seqlen_q=9),
}


@pytest.mark.parametrize("dtype", TRITON.dtypes, ids=str)
@pytest.mark.parametrize("case", ODD)
def test_head_widths_that_no_tile_has(case, dtype):
    check(ODD[case], dtype, TRITON)


@contextmanager
def fences() -> Iterator[list[torch.Tensor]]:
    """Tensors that torch.empty makes inside are 0 and lie between NaNs; gives them whole."""
    whole: list[torch.Tensor] = []
    original = torch.empty

    def empty(shape: Sequence[int], **kwargs: Any) -> torch.Tensor:
        size = math.prod(shape)
        whole.append(original(size + 2 * FENCE, **kwargs).fill_(float("nan")))
        return whole[-1][FENCE : FENCE + size].zero_().view(shape)

    with patch.object(torch, "empty", empty):
        yield whole


def test_without_tokens_too_forward_comes_before_backward(monkeypatch):
    """The first launch checks the device, which it can't in autograd's thread."""
    from hive_kernels.attention.triton_backend import backward, forward

    names: list[str] = []

    def ready(name: str, *_: object) -> AbstractContextManager[None]:
        names.append(name)
        return nullcontext()

    monkeypatch.setattr(forward, "ready", ready)
    monkeypatch.setattr(backward, "ready", ready)
    run, tensors = cross([0, 0], 4, 2, 3, 32)
    with_gradients(run, [x.half().to(DEVICE) for x in tensors], "triton")
    assert names == ["attention.forward", "attention.key_gradient"]


@pytest.mark.parametrize("offsets", [[0, 5, 3, 90], [-7, 2, 4, 6], [3, 1, 0, 0], [0, 6, 6, 2**30]], ids=str)
@pytest.mark.parametrize(
    ("heads", "bound"), [(8, 6), (16, 300), (16, 4)], ids=["one kernel", "two kernels", "one kernel, wrong bound"]
)
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_wrong_offsets_never_reach_outside(offsets, packed, heads, bound):
    """Past the checks, as on a GPU. What lies around the tensors is NaN: read, it shows; overwritten, it is missed."""
    cu = torch.tensor(offsets, dtype=torch.int32, device=DEVICE)
    with fences() as whole:
        q = torch.empty((6, heads, 32), dtype=torch.float32, device=DEVICE).fill_(0.25)
        keys = torch.empty((6, 1, 32) if packed else (3, 5, 1, 32), dtype=torch.float32, device=DEVICE).fill_(0.25)
        inputs = (q, keys, keys, cu, cu if packed else None, 1.0, bound)
        out, lse = torch.ops.hive_kernels.cross_attention(*inputs)
        torch.ops.hive_kernels.cross_attention_backward(torch.ones_like(out), out, lse.nan_to_num(), *inputs)
    for x in whole:
        assert x[:FENCE].isnan().all()
        assert x[-FENCE:].isnan().all()
        assert bound == 4 or not x[FENCE:-FENCE].isnan().any()  # a text longer than the bound has NaN as its gradients


@pytest.mark.parametrize("bound", [None, 7], ids=["two kernels", "one kernel"])
def test_backward_allocates_its_results_and_delta(bound):
    run, tensors = cross([5, 0, 7], 16, 1, 8, 32, max_seqlen_q=bound)
    q, k, v = (x.half().to(DEVICE).requires_grad_() for x in tensors)
    out = run(q, k, v, backend="triton")
    with fences() as whole:
        out.backward(torch.ones_like(out))
    delta = [] if bound else [12 * 8]
    assert [x.numel() - 2 * FENCE for x in whole] == [q.numel(), k.numel(), v.numel(), *delta]


def test_tile_table():
    assert tuning.render() == tuning.TABLE_FILE.read_text()
    gpus = {key[1] for key in TABLE}
    # A few tiles written out, of the rule and of its exceptions.
    for key, tile in {
        ("forward", 86, 16, 64, "long"): (64, 64, 4, 3),
        ("forward", 120, 16, 64, "short"): (64, 32, 4, 3),
        ("forward", 80, 32, 128, "long"): (16, 16, 8, 2),
        ("query_gradient", 100, 16, 64, "short"): (64, 64, 4, 2),
        ("key_gradient", 90, 16, 128, "long"): (64, 64, 8, 2),
        ("one_pass", 90, 16, 128, "short"): (64, 32, 8, 1),
        ("one_pass", 89, 16, 128, "short"): tiles.TWO_KERNELS,
        ("one_pass", 90, 16, 128, "long"): tiles.TWO_KERNELS,
    }.items():
        assert tiles.by_rule()[key] == tile
    assert len(tiles.by_rule()) == 4 * 6 * 2 * 3 * 2
    assert tiles.RULE.keys() >= tiles.EXCEPTIONS.keys()
    assert gpus >= {80, 86, 89, 90, 100, 120}
    for role in tiles.ROLES:
        for gpu in gpus:
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
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
    assert [role for role, _ in tuning.ORDER] == ["one_pass", "key_gradient", "forward", "query_gradient"]
    order = [(role, (5,) if role == "one_pass" else (22, 5)) for role, _ in tuning.ORDER]
    small = {"BATCH": 1, "KEYS": 9, "HEADS": 1, "ORDER": order}
    for name, value in {**small, "DTYPE": torch.float16}.items():
        monkeypatch.setattr(tuning, name, value)
    names = []
    for choice in tuning.choices(torch.device(DEVICE)):
        names.append(choice.name)
        assert choice.key[0] in tiles.ROLES
        assert len(choice.candidates) > 1
        assert all(not x.isnan().any() for x in choice.call())
    assert len(set(names)) == len(names) == 2 * 7
    assert names[:2] == ["attention one_pass 64 short", "attention key_gradient 64 long"]


@pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_dtypes_that_the_kernels_do_not_serve(dtype):
    run, tensors = cross([3, 2], 1, 2, 8, 32)
    with pytest.raises(ValueError, match=f"dtype is {dtype}; allowed: torch.float16"):
        run(*[x.to(dtype) for x in tensors], backend="triton")


def test_heads_that_are_too_wide():
    run, tensors = cross([1], 1, 1, 1, 160)
    with pytest.raises(ValueError, match=r"q.shape\[2\] is 160; allowed: at most 128"):
        run(*[x.half().to(DEVICE) for x in tensors], backend="triton")
