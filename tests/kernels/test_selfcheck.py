"""The check of a device: what it covers, what it says, when it runs; and debug(True), which reads values."""

from contextlib import nullcontext

import pytest
import torch

from hive_kernels import (
    causal_attention,
    debug,
    first_use,
    gated_residual,
    linear_cross_entropy,
    selfcheck,
    validation,
)
from hive_kernels.backends import OPERATIONS
from hive_kernels.selfcheck import Case, SelfCheckError
from hive_kernels.selfcheck.__main__ import main
from hive_kernels.testing import cu_seqlens
from tests.support.fake_tensors import check_shapes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Case("gated_residual", gated_residual, ((70, 96), (70, 96), (1,)))


def test_it_covers_what_triton_serves():
    names = {case.name.partition(",")[0] for case in selfcheck.cases("triton")}
    assert names == {name for name, operation in OPERATIONS.items() if operation.served_by("triton") == "triton"}


def test_it_passes_and_reports_each_result():
    results = selfcheck.run(DEVICE, chosen=[SMALL])
    assert {result.name for _, _, result in results} == {"output", "gradient 0", "gradient 1", "gradient 2"}
    dtypes = [*dict.fromkeys(dtype for _, dtype, _ in results)]
    assert dtypes == ([torch.bfloat16, torch.float16] if DEVICE == "cuda" else [torch.float16])  # fp32 on request alone
    in_fp32 = selfcheck.run(DEVICE, dtypes=[torch.float32], chosen=[SMALL])
    assert {dtype for _, dtype, _ in in_fp32} == {torch.float32}


def test_it_names_operation_error_and_tolerance():
    def wrong(*tensors, backend):
        out = gated_residual(*tensors, backend=backend)
        return out * 1.01 if backend == "triton" else out

    message = r"gated_residual is wrong on .*: output in torch.* is \S+ from the fp64 reference, \S+ is allowed"
    with pytest.raises(SelfCheckError, match=message):
        selfcheck.run(DEVICE, chosen=[SMALL._replace(operation=wrong)])


@pytest.mark.parametrize("fails", [False, True])
def test_it_runs_once_a_device_out_of_reach_of_the_caller(monkeypatch, fails):
    device, runs = torch.device("cpu"), []

    def run(checked, backend):
        runs.append((checked, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        first_use.ensure(checked, "triton")  # as its own launches do
        if fails:
            raise SelfCheckError("off")

    monkeypatch.setattr(first_use, "_check", run)
    monkeypatch.setattr(first_use, "_checked", set())
    monkeypatch.setattr(first_use, "_skipped", False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.delenv("HIVE_SKIP_SELFCHECK", raising=False)
    for _ in range(2):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            if fails:
                with pytest.raises(SelfCheckError, match="off"):
                    first_use.ensure(device, "triton")
            else:
                first_use.ensure(device, "triton")
    assert runs == [(device, True, False)] * (2 if fails else 1)


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setattr(first_use, "_checked", set())
    monkeypatch.setattr(first_use, "_check", lambda *_: pytest.fail("it ran"))
    first_use.skip()
    first_use.ensure(torch.device("cpu"), "triton")
    first_use.skip(False)
    monkeypatch.setenv("HIVE_SKIP_SELFCHECK", "1")
    first_use.ensure(torch.device("cpu"), "triton")


def test_the_command_takes_one_backend_that_has_kernels(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m hive_kernels.selfcheck [-h] [--fp32] [BACKEND]")
    for given in (["torch"], ["triton", "cuda"]):
        with pytest.raises(SystemExit, match=f"arguments are {' '.join(given)}; allowed: triton or cuda"):
            main(given)


def test_fp32_of_a_backend_without_it_is_refused():
    with pytest.raises(SystemExit, match="--fp32 was given, but backend cuda has no kernels in fp32: leave it out"):
        main(["--fp32", "cuda"])


@pytest.mark.gpu
def test_this_gpu_passes():
    assert selfcheck.run("cuda")


@pytest.mark.parametrize("case", [*selfcheck.cases("triton")], ids=lambda case: case.name)
def test_shapes_of_every_case(case):
    tensors = [torch.zeros(shape, device=DEVICE) for shape in case.shapes]
    check_shapes(case.operation, tensors, torch.float16, "triton")


def test_debug_as_a_function_and_as_a_context():
    assert not validation._debugging
    with debug(True):
        assert validation._debugging
        with debug(False):
            assert not validation._debugging
        assert validation._debugging
    debug(True)
    assert validation._debugging
    debug(False)
    assert not validation._debugging


def test_debug_names_the_target_out_of_range():
    h, w = torch.randn(4, 8, device=DEVICE), torch.randn(5, 8, device=DEVICE)
    with debug(True):
        linear_cross_entropy(h, w, torch.tensor([0, 4, -100, 2], device=DEVICE))
        with pytest.raises(ValueError, match=r"targets\[2\] is 5; allowed: 0 to 4, or -100 for a row to ignore"):
            linear_cross_entropy(h, w, torch.tensor([0, 4, 5, -7], device=DEVICE))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_debug_looks_at_offsets(device):
    q = torch.randn(4, 2, 64, device=device)
    with debug(True), pytest.raises(ValueError, match="cu_seqlens is from 0 to 3; allowed: from 0 to 4"):
        causal_attention(q, q, q, cu_seqlens([1, 2], device), max_seqlen=3)
