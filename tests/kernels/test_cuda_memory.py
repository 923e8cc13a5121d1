"""Which memory the CUDA backend's kernels use: what lies in tensors, however they are laid out, and no more of it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hive_kernels.testing import cu_seqlens
from tests.support.attention_cases import randn
from tests.support.kernel_backends import ON_BOTH_DEVICES, ROOT, Kernels, emulator, prepare, settings

OPERATORS = torch.ops.hive_kernels_cuda


@pytest.fixture(autouse=True)
def _prepared(request, monkeypatch):
    if "kernels" in request.fixturenames:
        prepare(request.getfixturevalue("kernels"), monkeypatch)


def halves(kernels: Kernels, *shape: int, seed: int = 0) -> Tensor:
    return randn(*shape, seed=seed).half().to(kernels.device)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_garbage_offsets_never_lead_outside_of_a_tensor(tmp_path):
    """Every tensor ends where pages begin that end the process: of inputs, results and sums, read or written."""
    source, guard = ROOT / "tests" / "support" / "guarded_memory.cpp", tmp_path / "guarded_memory.so"
    subprocess.run(["c++", "-std=c++17", "-shared", "-fPIC", "-o", guard, source], check=True)
    environment = os.environ | {"HIVE_CUDA_EMULATOR": str(emulator()), "LD_PRELOAD": str(guard)}
    command = [sys.executable, "-m", "tests.support.garbage_offsets"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    *_, last = done.stdout.splitlines() or [""]
    assert done.returncode != -signal.SIGSEGV, f"an access outside of a tensor: {last}"
    assert done.returncode == 0, done.stderr
    assert int(re.fullmatch(r"(\d+) cases", last)[1]) > 50  # type: ignore[index]


def apart(x: Tensor, *strides: int) -> Tensor:
    """A copy with these strides, between NaNs that are read where others are used."""
    room = torch.full((sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True)) + 1,), float("nan"))
    copy = room.to(x).as_strided(x.shape, strides)
    return copy.copy_(x)


def every_other(offsets: Tensor) -> Tensor:
    """The offsets as a view of twice as many numbers."""
    view = torch.stack([offsets, torch.full_like(offsets, 1 << 30)], 1)[:, 0]
    assert not view.is_contiguous()
    return view


@ON_BOTH_DEVICES
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("longest", [21, 90], ids=["64 rows", "more rows"])
def test_every_input_is_read_by_its_own_strides(kernels, packed, longest):
    """The tensors of one call, each laid out differently; the operators are called past autograd, which packs some."""
    texts, images = [longest, 0, 9], [3, 70, 5]
    tokens, keys = sum(texts), (78,) if packed else (3, 70)
    grad, q, k, v = (
        halves(kernels, *shape, 64, seed=i) for i, shape in enumerate([(tokens, 6)] * 2 + [(*keys, 2)] * 2)
    )
    offsets = cu_seqlens(texts, kernels.device)
    offsets_k = cu_seqlens(images, kernels.device) if packed else None
    out, lse = OPERATORS.cross_attention(q, k, v, offsets, offsets_k, 0.125, longest)
    expected = OPERATORS.cross_attention_backward(grad, out, lse, q, k, v, offsets, offsets_k, 0.125, longest)

    strided = {
        "grad": apart(grad, 6 * 64 + 8, 64, 1),
        "out": apart(out, 64, tokens * 64 + 16, 1),
        "lse": apart(lse, 1, tokens + 3),
        "q": apart(q, 8 * 80, 80, 1),
        "k": apart(k, *((80 * 2 * 72,) if not packed else ()), 2 * 72, 72, 1),
        "v": apart(v, *((70 * 64,) if not packed else ()), 64, 3 * 80 * 64, 1),
    }
    offsets, offsets_k = every_other(offsets), None if offsets_k is None else every_other(offsets_k)
    inputs = (*(strided[name] for name in "qkv"), offsets, offsets_k, 0.125, longest)
    again, statistics = OPERATORS.cross_attention(*inputs)
    assert torch.equal(again, out)
    assert torch.equal(statistics, lse)
    gradients = OPERATORS.cross_attention_backward(strided["grad"], strided["out"], strided["lse"], *inputs)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@pytest.fixture
def last_block(kernels: Kernels) -> Iterator[None]:
    """In the emulator only the last block of every grid runs: the others would take hours."""
    if kernels.device == "cpu":
        settings().hive_emulator_last_blocks(1)
    yield
    if kernels.device == "cpu":
        settings().hive_emulator_last_blocks(2**62)


# The tests below need address space for 2^31 elements. On a CPU only what is read or written of it is touched.


@ON_BOTH_DEVICES
@pytest.mark.usefixtures("last_block")
def test_results_of_queries_after_2_31_elements(kernels):
    """Of out, dQ and the log-sum-exp; the queries of the tokens before belong to no text."""
    before = 2**31 // 64
    offsets = torch.tensor([before, before, before + 1], dtype=torch.int32, device=kernels.device)
    q, grad, k, v = (halves(kernels, n, 1, 64, seed=n) for n in (1, 1, 3, 3))
    call = (k.expand(2, 3, 1, 64), v.expand(2, 3, 1, 64), offsets, None, 0.125, 1)
    out, lse = OPERATORS.cross_attention(q.expand(before + 1, 1, 64), *call)
    dq, *_ = OPERATORS.cross_attention_backward(
        grad.expand(before + 1, 1, 64), out, lse, q.expand(before + 1, 1, 64), *call
    )
    few = (q, k[None], v[None], cu_seqlens([1], kernels.device), None, 0.125, 1)
    right = OPERATORS.cross_attention(*few)
    assert torch.equal(out[before:], right[0])
    assert torch.equal(lse[before:], right[1])
    assert torch.equal(dq[before:], OPERATORS.cross_attention_backward(grad, *right, *few)[0])


@ON_BOTH_DEVICES
@pytest.mark.parametrize("texts", [[5], [4, 1]], ids=["in a text", "where a text begins"])
def test_queries_more_than_2_31_elements_apart(kernels, texts):
    stride = 2**29 + 64
    storage = torch.empty(4 * stride + 128, dtype=torch.float16, device=kernels.device)
    q, grad = (storage.as_strided((5, 1, 64), (stride, 64, 1), offset) for offset in (0, 64))
    for seed, x in enumerate((q, grad)):
        x.copy_(halves(kernels, 5, 1, 64, seed=seed))
    k = halves(kernels, len(texts), 3, 1, 64)
    call = (k, k, cu_seqlens(texts, kernels.device), None, 0.125, 5)
    saved = OPERATORS.cross_attention(q, *call)
    right = OPERATORS.cross_attention(q.contiguous(), *call)
    assert torch.equal(saved[0], right[0])
    gradients = OPERATORS.cross_attention_backward(grad, *saved, q, *call)
    expected = OPERATORS.cross_attention_backward(grad.contiguous(), *right, q.contiguous(), *call)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@ON_BOTH_DEVICES
@pytest.mark.usefixtures("last_block")
def test_gradients_of_keys_after_2_31_elements(kernels):
    before = 2**31 // (8 * 64)
    offsets = torch.zeros(before + 2, dtype=torch.int32, device=kernels.device)
    offsets[-1] = 2
    q, k = halves(kernels, 2, 1, 64), halves(kernels, 8, 1, 64)
    few = (q, k[None], k[None], cu_seqlens([2], kernels.device), None, 0.125, 2)
    saved = OPERATORS.cross_attention(*few)
    keys = k.expand(before + 1, 8, 1, 64)
    _, dk, dv = OPERATORS.cross_attention_backward(q, *saved, q, keys, keys, offsets, None, 0.125, 2)
    _, *expected = OPERATORS.cross_attention_backward(q, *saved, *few)
    assert torch.equal(dk[before:], expected[0])
    assert torch.equal(dv[before:], expected[1])


@ON_BOTH_DEVICES
@pytest.mark.usefixtures("last_block")
def test_a_gate_after_2_31_elements(kernels):
    before, gate = 2**31, torch.full((1,), 0.7, device=kernels.device)
    x, y = (torch.empty(before + 2048, dtype=torch.float16, device=kernels.device) for _ in range(2))
    for seed, tensor in enumerate((x, y)):
        tensor[before:] = halves(kernels, 2048, seed=seed)
    few = x[before:].clone(), y[before:].clone()
    assert torch.equal(OPERATORS.gated_residual(x, y, gate)[before:], OPERATORS.gated_residual(*few, gate))
    grad_y, _ = OPERATORS.gated_residual_backward(x, y, gate)
    assert torch.equal(grad_y[before:], OPERATORS.gated_residual_backward(*few, gate)[0])


@ON_BOTH_DEVICES
@pytest.mark.parametrize(
    ("q", "keys"), [((2**28, 8, 64), (1, 4, 1, 64)), ((4, 1, 64), (1, 2**31 - 64, 1, 64))], ids=["rows", "keys"]
)
def test_more_than_a_kernel_can_count(kernels, q, keys):
    """Each size fits 32 bits, but not the packed rows, or the keys rounded up to whole tiles."""
    q, k = (torch.zeros(64, dtype=torch.float16, device=kernels.device).expand(shape) for shape in (q, keys))
    with pytest.raises(RuntimeError, match="is more than a size may be"):
        OPERATORS.cross_attention(q, k, k, cu_seqlens([q.shape[0]], kernels.device), None, 1.0, 1)


def allocated_bytes(kernels: Kernels) -> int:
    """So far, by the operators or, on a GPU, by all."""
    if kernels.device == "cpu":
        return settings().hive_emulator_allocated_bytes()
    return torch.cuda.memory_stats()["allocated_bytes.all.allocated"]


@ON_BOTH_DEVICES
@pytest.mark.usefixtures("last_block")
@pytest.mark.parametrize(
    ("tokens", "samples", "images", "heads", "group", "dim", "longest", "tiles"),
    [
        pytest.param(4096, 256, 576, 5, 3, 64, 85, 0, id="256 rows fit a block"),
        pytest.param(4096, 256, 576, 5, 3, 64, 86, 4096 // 86 * 9, id="258 rows don't"),
        pytest.param(4096, 256, 576, 5, 3, 64, None, 4096 // 86 * 9, id="no bound"),
        pytest.param(85, 4, 576, 5, 3, 64, None, 0, id="no bound, but few tokens"),
        pytest.param(900, 4, 100, 1, 3, 64, None, 4 * 2, id="all texts may be long"),
        pytest.param(300, 4, [100, 20, 7, 3], 1, 3, 64, None, 300 // 86 + 130 // 64, id="packed keys"),
        pytest.param(100, 9, 65, 1, 4, 128, None, 100 // 17 * 2, id="wide heads"),
    ],
)
def test_room_for_sums_is_that_of_texts_that_can_need_it(
    kernels, tokens, samples, images, heads, group, dim, longest, tiles
):
    """Counted in tiles of dK and dV, 64 keys in fp32. For all 256 samples they would be 377 MB, here they are 69 MB."""
    offsets = cu_seqlens([tokens, *[0] * (samples - 1)], kernels.device)
    keys = (samples, images) if isinstance(images, int) else (sum(images),)
    offsets_k = None if isinstance(images, int) else cu_seqlens(images, kernels.device)
    q = torch.zeros(tokens, heads * group, dim, dtype=torch.float16, device=kernels.device)
    k = torch.zeros(*keys, heads, dim, dtype=torch.float16, device=kernels.device)
    inputs = (q, k, k, offsets, offsets_k, 1.0, tokens if longest is None else longest)
    saved = OPERATORS.cross_attention(*inputs)
    before = allocated_bytes(kernels)
    OPERATORS.cross_attention_backward(q, *saved, *inputs)
    room = allocated_bytes(kernels) - before - (q.nbytes + 2 * k.nbytes)
    expected = tiles * heads * 2 * 64 * dim * 4
    assert expected <= room <= expected + (0 if kernels.device == "cpu" else 4 * 512)  # a GPU's memory is in pieces


FAKE_CUDA = """
#pragma once
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorNoKernelImageForDevice };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline int device = 0, asked = 0;
inline cudaError_t answer = cudaSuccess;
inline const char* cudaGetErrorString(cudaError_t) { return "refused"; }
inline cudaError_t cudaGetDevice(int* to) { return *to = device, cudaSuccess; }
inline cudaError_t cudaFuncSetAttribute(const void*, int, int bytes) { return asked += bytes, answer; }
"""
ASKING = """
#include "shared_memory.h"
#include <cstdio>
#include <thread>
int main() {
  const char kernels[2] = {};
  hive::allow_shared_memory(kernels, 48 * 1024);  // needs no asking
  answer = cudaErrorInvalidValue;
  try {
    hive::allow_shared_memory(kernels, 50000);
  } catch (const std::runtime_error& error) {
    std::puts(error.what());
  }
  answer = cudaSuccess;
  for (device = 0; device < 2; ++device) {
    const auto launch = [&] {
      for (int i = 0; i < 1000; ++i) hive::allow_shared_memory(kernels + i % 2, 50000 + i % 2);
    };
    std::thread other(launch);
    launch();
    other.join();
  }
  std::printf("%d", asked);
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_shared_memory_is_asked_for_once_a_kernel_and_device(tmp_path):
    """Of a CUDA that counts; again after a refusal."""
    (tmp_path / "cuda_runtime.h").write_text(FAKE_CUDA)
    (tmp_path / "asking.cpp").write_text(ASKING)
    program, folders = tmp_path / "asking", (f"-I{tmp_path}", f"-I{ROOT / 'csrc'}")
    subprocess.run(["c++", "-std=c++20", "-pthread", *folders, tmp_path / "asking.cpp", "-o", program], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["asking for shared memory: refused", str(50000 + 2 * (50000 + 50001))]
