"""Which backend a name means, what serves each operation, and what is said when it can't run."""

import ast
import inspect
import runpy
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch

import hive_kernels
from hive.errors import UserError
from hive.model.kernel import check_kernel_name
from hive_kernels import backends, launch, native, resolve
from hive_kernels.attention.limits import Limits
from hive_kernels.backends import BACKENDS, CROSS_ATTENTION, JOINT_ATTENTION, OPERATIONS, reason_unavailable
from hive_kernels.backends.backend import Backend
from hive_kernels.testing import cu_seqlens

ROOT = Path(__file__).parents[2]


def test_resolve():
    for device in ("cpu", "cuda", torch.device("cuda", 1), "meta"):
        assert resolve("auto", device) == "torch"
        assert resolve("torch", device) == "torch"
    assert resolve("reference", "cpu") == "reference"


def test_triton_runs_in_its_interpreter_on_a_cpu(monkeypatch):
    monkeypatch.setattr(launch, "INTERPRETED", True)
    assert resolve("triton", "cpu") == "triton"
    monkeypatch.setattr(launch, "INTERPRETED", False)
    with pytest.raises(ValueError, match=r"'triton'.*cpu: Triton needs a GPU.*TRITON_INTERPRET=1.*auto, torch, ref"):
        resolve("triton", "cpu")


@pytest.mark.parametrize(
    ("triton", "numpy", "fits"),
    [("3.6.0", "2.3.5", True), ("3.6.0", "2.4.0", False), ("3.6.0+git1", "2.10.1rc1", False), ("3.7.0", "2.4.6", True)],
)
def test_the_interpreter_of_an_older_triton_needs_an_older_numpy(monkeypatch, triton, numpy, fits):
    monkeypatch.setattr(launch, "INTERPRETED", True)
    monkeypatch.setattr(launch, "INTERPRETER_PROBLEM", launch.interpreter_problem(triton, numpy))
    if fits:
        assert resolve("triton", "cpu") == "triton"
    else:
        message = rf"cpu: the interpreter of triton 3\.6.* needs numpy below 2\.4, but numpy {numpy} is installed"
        with pytest.raises(ValueError, match=message):
            resolve("triton", "cpu")


def test_triton_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve("triton", "cuda") == "triton"
    assert resolve("auto", "cuda") == "torch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"can't run on cuda: torch sees no CUDA GPU; allowed here: auto, torch, ref"):
        resolve("triton", "cuda")
    monkeypatch.setattr(launch, "HAS_TRITON", False)
    with pytest.raises(ValueError, match=r"package triton can't be imported; pip install triton"):
        resolve("triton", "cuda")


def test_cuda_needs_its_library_and_a_gpu_that_is_new_enough(monkeypatch, tmp_path):
    message = "'cuda'.*{}.*allowed here: auto, torch, reference"
    with pytest.raises(ValueError, match=message.format("on a CPU HIVE_CUDA_EMULATOR names a library")):
        resolve("cuda", "cpu")
    monkeypatch.setattr(native, "FILE", tmp_path / "missing.so")
    with pytest.raises(ValueError, match=message.format("not built; run make native in a clone, or HIVE_BUILD_CUDA=1")):
        resolve("cuda", "cuda")
    monkeypatch.setattr(native, "FILE", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message.format("torch sees no CUDA GPU")):
        resolve("cuda", "cuda")
    (tmp_path / "another.so").touch()  # what was found out about a file is kept
    monkeypatch.setattr(native, "FILE", tmp_path / "another.so")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(ValueError, match=message.format("older than compute capability 8.0")):
        resolve("cuda", "cuda")


def test_what_has_run_on_a_gpu_has_a_result():
    """The claim is the newest JSON's: one that a GPU has written and that times the backend's kernels."""
    results = (ROOT / "benchmarks" / "results").glob("*.json")
    texts = [path.read_text() for path in results if "cpu" not in path.name]
    for name in ("triton", "cuda"):
        assert any(f'"{name}"' in text for text in texts) == BACKENDS[name].has_run_on_a_gpu


def test_the_reference_needs_values():
    with pytest.raises(ValueError, match=r"can't run on meta: it reads cu_seqlens.*allowed here: auto, torch$"):
        resolve("reference", "meta")


def test_unknown_names():
    with pytest.raises(ValueError, match="backend is 'tirton'; allowed: auto, torch, reference, triton, cuda"):
        resolve("tirton", "cpu")


def test_every_public_operation_is_listed():
    assert set(OPERATIONS) | {"debug", "resolve"} == set(hive_kernels.__all__)
    for operation in OPERATIONS.values():
        assert set(operation.functions) <= set(BACKENDS)
        assert {operation.served_by(name) for name in BACKENDS} <= set(operation.functions)
    assert all(reason_unavailable(name, "cpu") is None for name in ("torch", "reference"))


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda operation: operation.name)
def test_all_functions_of_an_operation_have_one_signature(operation):
    signatures = [inspect.signature(function) for function in operation.functions.values()]
    assert all(signature == signatures[0] for signature in signatures)


def test_a_backend_is_a_record_and_a_function_for_each_operation_that_it_serves(monkeypatch):
    """In the table it is known to all that names backends, and leaves to another what it has no function for."""
    calls = []

    def cross(q, k, v, cu_seqlens_q, max_seqlen_q, cu_seqlens_k, max_seqlen_k, scale, return_lse):
        calls.append(scale)
        served = CROSS_ATTENTION.functions["reference"]
        return served(q, k, v, cu_seqlens_q, max_seqlen_q, cu_seqlens_k, max_seqlen_k, scale, return_lse)

    toy = Backend(
        "toy",
        lambda kind: None if kind == "cpu" else "it is a toy",
        attention=Limits((torch.float32,), "at most 8", lambda size: size <= 8),
        has_run_on_a_gpu=False,
    )
    monkeypatch.setitem(BACKENDS, "toy", toy)
    monkeypatch.setitem(CROSS_ATTENTION.functions, "toy", cross)
    q, k = torch.randn(5, 2, 8), torch.randn(2, 3, 1, 8)
    out, lse = hive_kernels.cross_attention(q, k, k, cu_seqlens([2, 3]), scale=0.5, return_lse=True, backend="toy")
    assert (calls, out.shape, lse.shape) == ([0.5], q.shape, (5, 2))
    h = torch.randn(3, 4)
    loss = [hive_kernels.linear_cross_entropy(h, h, torch.tensor([0, 1, 2]), backend=name) for name in ("toy", "torch")]
    assert torch.equal(*loss)

    with pytest.raises(ValueError, match="can't run on cuda: it is a toy; allowed here: auto, torch, reference"):
        resolve("toy", "cuda")
    rows = [line.split() for line in backends.table("cpu").splitlines()]
    (row,) = [cells for cells in rows if cells[0] == "cross_attention"]
    assert row[1:5] + row[-1:] == ["torch", "reference", "triton", "no", "toy"]
    assert ["toy:", "not", "yet", "run", "on", "a", "GPU"] in rows
    assert CROSS_ATTENTION.limits("toy") is toy.attention
    assert JOINT_ATTENTION.limits("toy") is None
    check_kernel_name("toy")
    with pytest.raises(UserError, match=r'--kernel is "tory", but it must be one of auto, .*, toy'):
        check_kernel_name("tory")


def test_imports_go_one_way():
    """No module imports one that imports it, not even where a function hides the import."""
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in (ROOT / "hive_kernels").rglob("*.py")
    }
    imports: dict[str, set[str]] = {}
    for name, file in files.items():
        found = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                members = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {member if member in files else node.module for member in members}
        imports[name] = found & files.keys()
    order = TopologicalSorter(imports)
    order.prepare()  # an error where there is a circle
    assert len(imports["hive_kernels.backends"]) > 10
    assert "hive_kernels.selfcheck" in imports["hive_kernels"]


def test_the_table_says_what_serves_what():
    table = backends.table("cpu").splitlines()
    row = next(line for line in table if line.startswith("linear_cross_entropy")).split()
    assert row[:5] == ["linear_cross_entropy", "torch", "reference", "torch", "no"]
    assert any(line.startswith("cuda: CUDA needs a GPU") for line in table)
    assert "cuda: not yet run on a GPU" in table
    assert table[-1] == "auto means torch"


def test_the_command_prints_it(capsys):
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("hive_kernels.backends", run_name="__main__")
    assert capsys.readouterr().out.strip() == backends.table("cuda" if torch.cuda.is_available() else "cpu")


def test_importing_needs_torch_alone():
    program = """
import sys
sys.modules.update(dict.fromkeys(("triton", "transformers", "hive")))  # importing one of these now fails
import hive_kernels
"""
    subprocess.run([sys.executable, "-c", program], check=True)
