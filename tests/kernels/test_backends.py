"""Which backend a name means, what serves each operation, and what is said when it can't run."""

import runpy
import subprocess
import sys

import pytest
import torch

import hive_kernels
from hive_kernels import backends, resolve
from hive_kernels.backends import BACKENDS, SERVED_BY, reason_unavailable


def test_resolve():
    for device in ("cpu", "cuda", torch.device("cuda", 1), "meta"):
        assert resolve("auto", device) == "torch"
        assert resolve("torch", device) == "torch"
    assert resolve("reference", "cpu") == "reference"


def test_triton_runs_in_its_interpreter_on_a_cpu(monkeypatch):
    monkeypatch.setattr(backends, "INTERPRETED", True)
    assert resolve("triton", "cpu") == "triton"
    monkeypatch.setattr(backends, "INTERPRETED", False)
    with pytest.raises(ValueError, match=r"'triton'.*cpu: Triton needs a GPU.*TRITON_INTERPRET=1.*auto, torch, ref"):
        resolve("triton", "cpu")


def test_triton_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve("triton", "cuda") == "triton"
    assert resolve("auto", "cuda") == "torch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"can't run on cuda: torch sees no CUDA GPU; allowed here: auto, torch, ref"):
        resolve("triton", "cuda")
    monkeypatch.setattr(backends, "HAS_TRITON", False)
    with pytest.raises(ValueError, match=r"package triton can't be imported; pip install triton"):
        resolve("triton", "cuda")


def test_cuda_is_not_built():
    with pytest.raises(ValueError, match=r"'cuda'.*not built in this version.*allowed here: auto, torch, reference"):
        resolve("cuda", "cuda")


def test_the_reference_needs_values():
    with pytest.raises(ValueError, match=r"can't run on meta: it reads cu_seqlens.*allowed here: auto, torch$"):
        resolve("reference", "meta")


def test_unknown_names():
    with pytest.raises(ValueError, match="backend is 'tirton'; allowed: auto, torch, reference, triton, cuda"):
        resolve("tirton", "cpu")


def test_every_public_operation_is_listed():
    assert set(SERVED_BY) | {"debug", "resolve"} == set(hive_kernels.__all__)
    for served in SERVED_BY.values():
        assert set(served) == set(BACKENDS) - {"cuda"}
        assert set(served.values()) <= set(BACKENDS)
    assert all(reason_unavailable(name, "cpu") is None for name in ("torch", "reference"))


def test_the_table_says_what_serves_what():
    table = backends.table("cpu").splitlines()
    row = next(line for line in table if line.startswith("linear_cross_entropy")).split()
    assert row == ["linear_cross_entropy", "torch", "reference", "torch", "no"]
    assert "cuda: not built in this version" in table
    assert table[-1] == "auto means torch"


def test_the_command_prints_it(capsys):
    runpy.run_module("hive_kernels.backends.__main__")
    assert capsys.readouterr().out.strip() == backends.table("cuda" if torch.cuda.is_available() else "cpu")


def test_importing_needs_torch_alone():
    program = """
import sys
sys.modules.update(dict.fromkeys(("triton", "transformers", "hive")))  # importing one of these now fails
import hive_kernels
"""
    subprocess.run([sys.executable, "-c", program], check=True)
