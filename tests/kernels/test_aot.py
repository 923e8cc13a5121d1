"""Compilation without a GPU: one kernel of each kind, and what is said about those that can't be used."""

import json
import os
import subprocess
import sys

import pytest

from hive_kernels import aot

pytest.importorskip("triton")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = [sys.executable, "-m", "hive_kernels.aot", "--jobs", "1", *arguments]
    return subprocess.run(program, capture_output=True, text=True, env=environment)


def test_it_compiles_reports_and_writes(tmp_path):
    file = tmp_path / "aot.json"
    done = run("--arch", "90", "--only", "projector.gemm_features.bf16.128x128x32", "--json", str(file))
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(file.read_text())
    assert report["name"] == "projector.gemm_features.bf16.128x128x32w8s4"
    assert report["tensor_core"] == "wgmma"
    assert 0 < report["shared"] <= aot.SHARED_MEMORY[90]
    assert 32 < report["registers"] <= 255
    assert (report["spilled"], report["problem"]) == (0, "")
    assert "wgmma" in done.stdout
    assert done.stdout.endswith("1 compiled, 0 not usable\n")


def test_problems():
    assert aot.Report("k", 86, shared=101376).problem == ""
    assert aot.Report("k", 86, shared=101377).problem == "needs 101377 bytes of shared memory, the GPU has 101376"
    assert aot.Report("k", 90, spilled=8).problem == "spills 8 bytes"
    assert aot.Report("k", 90, error="doesn't compile: E: no").problem == "doesn't compile: E: no"


def test_every_kernel_file_is_listed_once():
    names = [case.name for case in aot.cases(90)]
    assert len(names) == len(set(names))
    operations = {name.partition(".")[0] for name in names}
    assert operations >= {"projector", "gated_residual", "cross_attention"}


def test_bad_architectures(capsys):
    for given in ("75", "x"):
        with pytest.raises(SystemExit):
            aot.main(["--arch", given])
        assert f"--arch is {given}; allowed: some of 80,86,89,90,100,120" in capsys.readouterr().err
