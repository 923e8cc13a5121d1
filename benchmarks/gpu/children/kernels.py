"""Measures peers of one group in every case: ``kernels.py GROUP [--without BACKEND=REASON] [ITEM...]``.

An item is a case and a peer. The cases that matter most come first; the reference, which is no kernel, comes last.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import torch

from benchmarks import cases, peers
from benchmarks.cases import Case
from benchmarks.gpu.children.arguments import parse
from benchmarks.gpu.rows import run_items
from benchmarks.measure import Truth, absent, measure
from benchmarks.peers import Peer
from benchmarks.report import line
from hive_kernels import first_use

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32


def main(arguments: Sequence[str]) -> int:
    """Tells a row for each item; returns the exit code."""
    (group,), without, items = parse("kernels.py", ["group"], arguments)
    if group not in peers.GROUPS:
        raise SystemExit(f"GROUP is {group}; allowed: {', '.join(peers.GROUPS)}")
    first_use.skip()  # the steps before have checked the kernels
    table = pairs(group, without)
    return run_items(items or [*table], lambda name: rows(*table[name]))


def pairs(group: str, without: Mapping[str, str]) -> dict[str, tuple[Case, Peer]]:
    """The items of a group by their names, in order. A peer of a backend in ``without`` is absent."""
    chosen = cases.full() if DEVICE.type == "cuda" else cases.small()
    found = [(case, peer) for case in chosen for peer in peers.select_peers(case, DEVICE) if peer.group == group]
    found.sort(key=lambda pair: pair[1].name == "hive reference")
    named = {}
    for case, peer in found:
        backend = peer.name.partition(",")[0].removeprefix("hive ")
        named[f"{case.name}, {peer.name}"] = case, replace(peer, absent=without.get(backend, peer.absent))
    return named


def rows(case: Case, peer: Peer) -> Iterator[dict[str, Any]]:
    """The row of a peer in a case. A fault of ours counts, one of another's peer does not."""
    row = absent(case, peer) if peer.absent else measure(case, peer, truth(case))
    told = {"item": f"{case.name}, {peer.name}", **asdict(row)}
    if peer.ours and row.status in ("wrong", "failed"):
        yield told | {"fault": f"{row.status}: {row.reason}"}
    else:
        yield told | {"text": f"{case.name}: {line(row).strip()}"}


@cache
def truth(case: Case) -> Truth:
    """The reference of a case; that of one case is in memory at a time."""
    truth.cache_clear()
    return Truth(case, DEVICE, DTYPE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
