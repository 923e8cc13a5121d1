"""The benchmarks' own promises: nothing about speed beside a wrong result, reasons for absence, whole files."""

import json
import math

import pytest
import torch

from benchmarks import cases, gpu_run, peers, report
from benchmarks.measure import Truth, backward, measure
from benchmarks.report import Row

CPU = torch.device("cpu")
GATE = next(case for case in cases.small() if case.operation == "gated_residual")


def row(peer: str, status: str, median: float = math.nan, ours: bool = False) -> Row:
    return Row("case", "gated_residual", peer, ours, status, "why" if status != "right" else "", median_ms=median)


def test_no_speed_beside_a_wrong_result():
    rows = [row("hive triton", "right", 1.0, ours=True), row("eager", "right", 2.0), row("other", "wrong")]
    table = report.table(rows)
    assert "2.00x as fast" in table
    assert "wrong: why" in table
    rows[0] = row("hive triton", "wrong", ours=True)
    assert "as fast" not in report.table(rows)


def test_a_wrong_peer_gets_no_time_and_an_absent_one_a_reason():
    truth = Truth(GATE, CPU, torch.float32)
    right = next(peer for peer in peers.select_peers(GATE, CPU) if peer.name == "hive torch")
    assert measure(GATE, right, truth).status == "right"

    def build(*arguments):
        run = right.build(*arguments)
        return peers.Run(lambda: [1.01 * run.forward()[0]], run.leaves, run.cotangents)

    def breaks(*_: object) -> peers.Run:
        raise ZeroDivisionError("division by zero")

    wrong = measure(GATE, peers.Peer("wrong", (GATE.operation,), build), truth)
    assert (wrong.status, math.isnan(wrong.median_ms)) == ("wrong", True)
    broken = measure(GATE, peers.Peer("broken", (GATE.operation,), breaks), truth)
    assert (broken.status, broken.reason) == ("failed", "ZeroDivisionError: division by zero")
    absent = next(peer for peer in peers.peers(CPU) if peer.name == "flash_attn_varlen_func")
    assert measure(GATE, absent, truth).reason == "needs a CUDA GPU"


def test_what_was_measured_is_kept_case_by_case(tmp_path, monkeypatch):
    record = gpu_run.Record(tmp_path)
    monkeypatch.setattr(peers, "select_peers", lambda case, device: [])
    step = gpu_run.run_benchmarks(record, 60, [GATE], CPU)
    assert step["outcome"] == "1 of 1 cases"
    assert gpu_run.run_benchmarks(record, -1, [GATE], CPU)["outcome"] == "0 of 1 cases"
    record.rows += [row("eager", "right", 2.0), row("other", "failed")]
    record.save()
    (file,) = tmp_path.glob("*.json")
    content = json.loads(file.read_text())
    assert content["machine"]["torch"] == torch.__version__
    assert content["rows"][0]["error"] is None
    assert "eager" in file.with_suffix(".txt").read_text()
    record.rows.append(row("hive triton", "failed", ours=True))
    assert gpu_run.run_benchmarks(record, 60, [GATE], CPU)["outcome"].endswith("1 results of ours wrong or failed")


def test_a_step_that_takes_too_long_is_cut_off():
    step = gpu_run.run_command(["-c", "print('so far', flush=True); import time; time.sleep(60)"], 3)
    assert step["outcome"] == "cut off after 3 s"
    assert step["output"] == ["so far"]


def test_the_budget_is_eight_minutes():
    assert sum(gpu_run.BUDGET.values()) <= 470


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence(capsys):
    assert gpu_run.main([]) == 2
    assert capsys.readouterr().err == "this runs on a CUDA GPU, and torch sees none here\n"


@pytest.mark.parametrize("case", cases.full(), ids=lambda case: case.name)
def test_full_cases_have_the_shapes_that_they_say(case):
    meta = torch.device("meta")
    inputs = [torch.empty(shape, device=meta) for shape in case.shapes()]
    cotangent = torch.empty(case.output_shape(), device=meta)
    present = [peer for peer in peers.select_peers(case, meta) if not peer.absent]
    assert "hive torch" in [peer.name for peer in present]
    for peer in present:
        run = peer.build(case, inputs, cotangent)
        outputs = run.forward()
        results = run.results(outputs, backward(run, outputs))
        assert [x.shape for x in results] == [cotangent.shape, *(x.shape for x in inputs)]


def test_full_cases_are_those_of_the_goals():
    attention = [case for case in cases.full() if case.operation == "cross_attention"]
    assert {case.sizes for case in attention} == {
        (batch, tokens, *heads) for batch in (32, 256) for tokens in (576, 577) for heads in ((15, 5), (9, 3), (32, 8))
    }
    assert {case.lengths for case in attention} == {(77, 77), (4, 77), (4, 32)}
    assert len(attention) == 36
