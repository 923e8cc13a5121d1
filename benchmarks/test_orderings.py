"""Asserts that HIVE needs fewer FLOPs and bytes than self-attention at the paper's size, on every machine.

This is no benchmark, so `--benchmark-only` leaves it out. Times are printed by the benchmarks and asserted nowhere.
"""

import pytest
import torch

from hive.cost.cases import texts
from hive.cost.methods import METHODS, Method
from hive.efficiency.compare import Row, count
from hive.recipes import load_recipe


@pytest.fixture(scope="module")
def rows() -> dict[tuple[Method, int], Row]:
    config = load_recipe("siglip-l-384-mobilellm-350m")
    captions = texts("16", config, 32)
    counted = [row for method in METHODS for row in count(config, method, (2, 3), captions, torch.bfloat16)]
    return {(row.method, row.stage): row for row in counted}


@pytest.mark.parametrize("method", ["hive", "hive-mlp", "hive-joint"])
@pytest.mark.parametrize("stage", [2, 3])
def test_hive_costs_less(rows: dict[tuple[Method, int], Row], method: Method, stage: int) -> None:
    hive, baseline = rows[method, stage], rows["self-attention", stage]
    assert hive.counted.language_side < 0.10 * baseline.counted.language_side
    assert hive.step.kept < baseline.step.kept
    assert hive.step.peak < (0.40 if stage == 2 else 0.60) * baseline.step.peak


@pytest.mark.parametrize("stage", [2, 3])
def test_our_baseline_is_the_stronger_one(rows: dict[tuple[Method, int], Row], stage: int) -> None:
    ours, usual = rows["self-attention", stage], rows["transformers", stage]
    assert ours.counted.everything < usual.counted.everything
    assert ours.step.peak < usual.step.peak


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", [2, 3])
def test_the_ways_to_count_agree(rows: dict[tuple[Method, int], Row], method: Method, stage: int) -> None:
    row = rows[method, stage]
    assert row.counted.everything == pytest.approx(row.everything, rel=0.01)
    assert row.counted.language_side == pytest.approx(row.language_side, rel=0.01)
