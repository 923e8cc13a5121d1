"""The closed form against torch's counter over a real step, and against the numbers of the reproduction."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hive.efficiency.flops import step_flops, text_lengths
from hive.model.build import build_model
from hive.recipes import load_recipe
from hive.stages import enter_stage, trained_parts

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from tiny_models import TINY, tiny_batch, tiny_model


@pytest.mark.parametrize("method", [{}, {"fusion": "joint"}, {"method": "self-attention"}])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gemms_equal_torchs_count(method: dict, stage: int) -> None:
    """Attention is left out: the counter knows no causal half, and counts padding."""
    model, batch = tiny_model(**method), tiny_batch()
    parts = trained_parts(dataclasses.replace(TINY, **method), stage)
    enter_stage(model, parts)
    with FlopCounterMode(display=False) as counter:
        model(batch).backward()
    counted = sum(n for name, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(name))
    costs = step_flops(model, parts, batch.samples, text_lengths(batch.cu_seqlens.tolist()))
    attention = step_flops_of_attention(model, parts, batch)
    assert sum(cost.total for cost in costs.values()) - attention == pytest.approx(counted, rel=0.01)


def step_flops_of_attention(model, parts: frozenset[str], batch) -> float:
    """The attention share by hand: 4 FLOPs a score and channel forward, 10 backward."""
    lengths, patches = batch.cu_seqlens.diff().tolist(), model.tower.patches
    tower_scores = batch.samples * (patches + 1) ** 2 * len(model.tower.read_layers)
    total = tower_scores * 16 * (14 if "tower" in parts else 4)
    hive = hasattr(model, "fusion")
    sequences = lengths if hive else [length + patches for length in lengths]
    causal = sum(n * (n + 1) / 2 for n in sequences)
    for depth in range(5):
        grad = "language" in parts or not hive or depth >= model.fusion.depths[0]
        total += causal * 24 * (14 if grad else 4)
    if hive:
        total += sum(lengths) * patches * len(model.fusion.depths) * 24 * 14
    return total


def test_the_reproductions_gflops() -> None:
    """350M, 77 text tokens, 6 of SigLIP-L's layers: the encoder alone is 381-382 GFLOP forward, run to its end."""
    config = dataclasses.replace(load_recipe("siglip-l-384-mobilellm-350m"))
    vision = dataclasses.replace(config.vision, selection="14,16,18,20,22,24")
    with torch.device("meta"):
        model = build_model(dataclasses.replace(config, vision=vision), "torch", pretrained=False)
    costs = step_flops(model, frozenset(), 1, [77])
    assert costs["tower"].forward / 1e9 == pytest.approx(381.5, abs=1.0)
    # The published count is of the variant that reuses the host's query and output projections.
    own_projections = 6 * 2 * 77 * 960 * 960 * 2
    language_side = sum(cost.forward for name, cost in costs.items() if name != "tower") - own_projections
    assert language_side / 1e9 == pytest.approx(78.8, rel=0.01)
