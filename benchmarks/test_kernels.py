"""``pytest benchmarks/ --benchmark-only``: every peer in every case; full shapes on a GPU, small ones on a CPU.

pytest-benchmark's table has wall-clock times of a pass, launches included. The JSON and the last table have what
measure.py measures: correctness first, then the GPU's time and memory.
"""

from functools import cache

import pytest
import torch

from benchmarks import cases, peers
from benchmarks.cases import Case
from benchmarks.measure import Truth, backward, measure
from benchmarks.report import Row

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32
CASES = cases.full() if GPU else cases.small()
PAIRS = [
    pytest.param(case, peer, id=f"{case.name}, {peer.name}")
    for case in CASES
    for peer in peers.select_peers(case, DEVICE)
]


@cache
def truth(case: Case) -> Truth:
    truth.cache_clear()  # one at a time is in memory
    return Truth(case, DEVICE, DTYPE)


@pytest.mark.parametrize(("case", "peer"), PAIRS)
def test_forward_and_backward(case: Case, peer: peers.Peer, rows: list[Row], benchmark) -> None:
    if peer.absent:
        rows.append(Row(case.name, case.operation, peer.name, peer.ours, "absent", peer.absent))
        pytest.skip(peer.absent)
    known = truth(case)
    row = measure(case, peer, known)
    rows.append(row)
    if row.status == "failed" and not peer.ours:
        pytest.skip(row.reason)
    assert row.status == "right", row.reason
    run = peer.build(case, known.inputs, known.cotangent)

    def once() -> None:
        backward(run, run.forward())
        if GPU:
            torch.cuda.synchronize()

    benchmark.extra_info |= {"median_ms": row.median_ms, "q20_ms": row.q20_ms, "q80_ms": row.q80_ms}
    benchmark.pedantic(once, rounds=5, warmup_rounds=1)
