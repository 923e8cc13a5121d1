"""The benchmarks' own promises: nothing about speed beside a wrong result, reasons for absence, whole files."""

import json
import math

import pytest
import torch

from benchmarks import cases, peers, report
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


def test_rows_come_back_from_json(tmp_path):
    rows = [row("hive triton", "right", 1.0, ours=True), row("other", "failed")]
    report.write(tmp_path / "rows.json", {"rows": report.rows_as_json(rows)})
    written = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert written[1]["median_ms"] is None
    again = report.rows_from_json([{**each, "step": "own kernels"} for each in written])
    assert report.table(again) == report.table(rows)
    assert math.isnan(again[1].median_ms)


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
