"""What only the CUDA backend has: launch shapes, an emulator's view of races and banks, a library with a stable ABI."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hive_kernels import cross_attention, native, native_check, resolve, selfcheck
from hive_kernels.testing import cu_seqlens, with_gradients
from tests.support.attention_cases import check, cross, randn
from tests.support.kernel_backends import CUDA, ROOT, emulator, prepare, settings

RTX_3090 = 101376  # bytes of shared memory that a block may have

pytestmark = pytest.mark.skipif(CUDA.device == "cuda", reason="of the emulator")


@pytest.fixture(autouse=True)
def _prepared(monkeypatch):
    prepare(CUDA, monkeypatch)


def last_launch() -> list[int]:
    """Blocks along x and y, threads, bytes of shared memory."""
    return settings().hive_emulator_last_launch()[:4]


# Texts of more rows than a block holds: 256, and 64 of wide heads. Two or three blocks of rows, packed keys too.
LONG = {
    "two blocks of rows": cross([90, 3, 0], 65, 1, 3, 64),
    "three of wide heads": cross([44, 0, 2], 70, 2, 3, 128),
    "packed keys": cross([100, 90, 0, 9], [3, 131, 70, 0], 1, 3, 64),
    "rows that fill blocks": cross([16, 8], 70, 1, 8, 128),
}


@pytest.mark.parametrize("dtype", CUDA.dtypes, ids=str)
@pytest.mark.parametrize("case", LONG)
def test_texts_that_no_block_holds(case, dtype):
    check(LONG[case], dtype, CUDA)


def test_more_samples_than_a_block_has_threads():
    """Over one key, every token reads that key's value."""
    lengths = [1, 0, 2] * 45
    q, k, v = (randn(135, *shape).half() for shape in ((1, 64), (1, 1, 64), (1, 1, 64)))
    out = cross_attention(q, k, v, cu_seqlens(lengths), backend="cuda")
    assert torch.equal(out, v[:, 0].repeat_interleave(torch.tensor(lengths), dim=0))


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


def test_a_wrong_bound_and_wrong_offsets_stay_inside():
    """Past the checks, as on a GPU. Inputs lie between NaNs: one that is read from outside shows in the results."""
    for offsets in ([0, 5, 3, 90], [-7, 2, 4, 6], [3, 1, 0, 0], [0, 6, 6, 2**30], [90, 0, 0, 6]):
        for longest in (1, 6, 300):
            for packed in (False, True):
                cu = torch.tensor(offsets, dtype=torch.int32)
                q = fenced(6, 16, 64)
                keys = fenced(6, 1, 64) if packed else fenced(3, 5, 1, 64)
                inputs = (q, keys, keys, cu, cu if packed else None, 1.0, longest)
                out, lse = torch.zeros_like(q), torch.zeros(q.shape[:2])
                torch.ops.hive_kernels_cuda.cross_attention(*inputs)
                for gradient in torch.ops.hive_kernels_cuda.cross_attention_backward(out, out, lse, *inputs):
                    written = gradient[~gradient.isnan()]  # the emulator fills with NaN what a kernel leaves out
                    assert written.abs().max() == 0 if written.numel() else True


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
def test_operators_refuse_what_would_lead_kernels_outside(name, argument):
    """Called past the public function."""
    out, keys = torch.zeros(5, 6, 64).half(), torch.zeros(2, 7, 2, 64).half()
    given: dict[str, object] = {"grad": out, "out": out, "lse": torch.zeros(5, 6), "q": out, "k": keys, "v": keys}
    given |= {"offsets_q": cu_seqlens([2, 3]), "offsets_k": None, "scale": 1.0, "longest": 3}
    torch.ops.hive_kernels_cuda.cross_attention_backward(*given.values())
    with pytest.raises(RuntimeError, match="hive_kernels_cuda: "):
        torch.ops.hive_kernels_cuda.cross_attention_backward(*(given | {name: argument}).values())


def fenced(*shape: int) -> torch.Tensor:
    """Zeros within NaNs."""
    size, fence = torch.Size(shape).numel(), 4096
    whole = torch.full((size + 2 * fence,), float("nan"), dtype=torch.float16)
    return whole[fence : fence + size].zero_().view(shape)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([torch.zeros(2, 2, 64), torch.zeros(1, 3, 1, 64)], "q.dtype is torch.float32; allowed: torch.float16"),
        ([torch.zeros(2, 2, 32).half(), torch.zeros(1, 3, 1, 32).half()], r"q.shape\[2\] is 32; allowed: 64 or 128"),
    ],
)
def test_what_it_does_not_serve(tensors, message):
    q, k = tensors
    with pytest.raises(ValueError, match=message):
        cross_attention(q, k, k, cu_seqlens([2]), backend="cuda")


def test_views_that_16_bytes_do_not_fit_are_copied():
    """By where they begin, or by a stride."""
    wide, k, v = (randn(*shape).half() for shape in ((6, 6 * 64 + 1), (2, 5, 2, 72), (2, 5, 2, 65)))
    views = [wide[:, 1:].unflatten(1, (6, 64)), k[..., 1:65], v[..., :64]]
    run, _ = cross([4, 2], 5, 2, 3, 64)
    results = [with_gradients(run, x, "cuda") for x in (views, [x.contiguous() for x in views])]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_selfcheck_covers_every_shape_of_its_kernels():
    results = selfcheck.run("cpu", "cuda")
    attention = {f"cross_attention{case}" for case in ("", ", wide heads", ", short texts")}
    assert {name for name, _, _ in results} == attention | {"gated_residual"}
    assert {dtype for _, dtype, _ in results} == set(CUDA.dtypes)


def test_it_is_found_by_its_environment_variable():
    program = "import hive_kernels; print(hive_kernels.resolve('cuda', 'cpu'))"
    environment = os.environ | {"HIVE_CUDA_EMULATOR": str(emulator())}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cuda"


def test_a_library_that_can_not_be_loaded(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_text("no library")
    monkeypatch.setattr(native, "EMULATOR", str(broken))
    with pytest.raises(ValueError, match=r"'cuda', .*broken.so can't be loaded: .*(short|header)"):
        resolve("cuda", "cpu")


def test_a_library_of_something_else():
    program = "import hive_kernels; hive_kernels.resolve('cuda', 'cpu')"
    other = Path(torch.__file__).parent / "lib" / "libc10.so"
    for file, reason in ((str(other), "has no CPU kernels of ours"), ("", "on a CPU HIVE_CUDA_EMULATOR names")):
        environment = os.environ | {"HIVE_CUDA_EMULATOR": file}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert reason in done.stderr.splitlines()[-1]


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.parametrize("library", ["emulator", "cuda"])
def test_only_the_stable_abi_is_used(library):
    """No symbol of torch's C++: those change with every release."""
    path = emulator() if library == "emulator" else native.FILE
    if not Path(path).exists():
        pytest.skip("run make native first")
    listing = subprocess.run(["nm", "-DC", "--undefined-only", path], capture_output=True, text=True, check=True).stdout
    assert "torch_library_impl" in listing
    assert not re.findall(r"^.*\b(?:at|c10|torch)::.*$", listing, re.MULTILINE)


def test_a_build_without_torch_says_so(tmp_path):
    command = ["cmake", "-S", ROOT, "-B", tmp_path / "build", "-DHIVE_EMULATED=ON", f"-DHIVE_TORCH={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "install torch 2.11 or later first, or give its folder by" in " ".join(done.stderr.split())


@pytest.mark.parametrize("generations", ["86,90", "75;86", "8.6", "sm_86"])
def test_a_build_for_generations_that_do_not_exist(tmp_path, generations):
    command = ["cmake", "-S", ROOT, "-B", tmp_path, "-DHIVE_EMULATED=ON", f"-DHIVE_CUDA_ARCHITECTURES={generations}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"HIVE_CUDA_ARCHITECTURES is {generations}; allowed: compute capabilities" in " ".join(done.stderr.split())


def test_the_check_of_machine_code_explains_itself(capsys):
    with pytest.raises(SystemExit) as stopped:
        native_check.main(["--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m hive_kernels.native_check [-h] [FILE]")


def test_what_the_machine_code_is_asked(monkeypatch, capsys, tmp_path):
    """As cuobjdump lists a library: one good kernel, one that spills, one without tensor cores."""
    kernel = "_ZN4hive54_GLOBAL__N__2165ee29_20_attention_forward_cu_79c3110d{}I6__halfLi64EEEvNS_9AttentionE"
    good, spills, scalar = (kernel.format(name) for name in ("11good_kernel", "10bad_kernel", "11slow_kernel"))
    usage = "arch = sm_86\n" + "".join(
        f" Function {name}:\n  REG:130 STACK:{stack} SHARED:0 LOCAL:0 CONSTANT[0]:496\n"
        for name, stack in ((good, 0), (spills, 8), (scalar, 0))
    )
    code = "\tcode for sm_86\n" + "".join(
        f"\t\tFunction : {name}\n /*0010*/ {instruction} R4 ;\n"
        for name, instruction in ((good, "HMMA.16816.F32"), (spills, "HMMA.16816.F32"), (scalar, "FFMA"))
    )
    listings = {"--dump-resource-usage": usage, "--dump-sass": code}
    monkeypatch.setattr(native_check, "cuobjdump", lambda option, library: listings[option])
    monkeypatch.setattr(native_check, "_demangle", lambda mangled: {good: "g", spills: "s", scalar: "attention_x"})
    library = tmp_path / "library.so"
    assert native_check.main([str(library)]) == 2
    library.touch()
    assert native_check.main([str(library)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3:] == [
        "sm_86 attention_x: no tensor cores",
        "sm_86 s: spills 8 bytes",
        "3 kernels in library.so, 2 not good enough",
    ]
