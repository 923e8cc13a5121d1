"""Compilation ahead of time: launches find what was compiled, and the self-check launches every variant of training."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hive_kernels import precompile

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/support/stubbed_gpu.py prints, in a process of its own: in this one Triton interprets its kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.stubbed_gpu"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_launches_on_real_tensors_find_what_was_compiled(told):
    kernels = {"forward_kernel", "one_pass_kernel", "gelu_kernel", "gelu_backward_kernel"}
    kernels |= {"layer_norm_kernel", "layer_norm_backward_kernel"}
    assert {kernel for kernel, _ in told["training"]} == set(told["compiled"]) == kernels
    assert all(cached for _, cached in told["training"])


def test_a_launch_that_nobody_compiled_is_not_found(told):
    assert told["another dtype"] == [["gated_residual_kernel", False]]


def test_the_self_check_launches_the_one_pass_backward_and_the_kernels_without_masks(told):
    launched = told["self-check"]
    assert "one_pass_kernel" in {launch["kernel"] for launch in launched}
    for kernel in ("forward_kernel", "query_gradient_kernel"):
        variants = {("k_text" not in x, x["EVEN"]) for x in launched if x["kernel"] == kernel}  # (joint, no masks)
        assert variants == {(joint, even) for joint in (False, True) for even in (False, True)}


def test_a_kernel_that_ends_its_compiler_loses_no_other(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    launches = [precompile.Launch("tests.support.stubbed_kernels", name, "") for name in ("Aborts", "Works", "Works")]
    done = sorted((each.kernel, each.error) for each in precompile.compile_all(86, launches, jobs=1))
    assert done == [("Aborts", "the process that compiled it ended"), ("Works", ""), ("Works", "")]
