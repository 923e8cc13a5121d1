"""Times the layers of a training step, forward and backward: the paper's SigLIP recipe on a GPU, the demo on a CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hive.cost.cases import random_batch
from hive.cost.methods import build, configured
from hive.model.frozen_tower import FrozenTower
from hive.model.fusion import CrossAttentionBlock, HierarchicalFusion
from hive.model.hive import HiveModel
from hive.recipes import load_recipe

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32
RECIPE = "siglip-l-384-mobilellm-350m" if GPU else "demo"
SAMPLES, TOKENS = (32, 77) if GPU else (8, 16)
BACKENDS = ["torch", "triton"] if GPU else ["torch"]


@pytest.fixture(scope="module")
def models() -> dict[str, HiveModel]:
    made = {}
    for backend in BACKENDS:
        with torch.device(DEVICE):
            model = build(configured(load_recipe(RECIPE), "hive"), "hive", backend)
        assert isinstance(model, HiveModel)
        made[backend] = model
    return made


def cases(model: HiveModel) -> dict[str, Callable[[], Tensor]]:
    """Functions that run one layer each; their results have a gradient, except for the frozen tower's."""
    batch = random_batch((TOKENS,) * SAMPLES, model).to(DEVICE)
    patches, width, selected = model.tower.patches, model.language.width, len(model.fusion.depths)
    features = torch.randn(selected, SAMPLES, patches, model.tower.width, device=DEVICE, dtype=DTYPE)
    projected = torch.randn(selected, SAMPLES, patches, width, device=DEVICE, dtype=DTYPE, requires_grad=True)
    hidden = torch.randn(batch.token_count, width, device=DEVICE, dtype=torch.float32, requires_grad=True)
    (depth, *_) = model.fusion.depths
    key, value = (
        torch.randn(SAMPLES, patches, kv, head, device=DEVICE, dtype=DTYPE, requires_grad=True)
        for kv, head in [(model.language.shape.kv_heads, model.language.head_dim)] * 2
    )
    frozen = FrozenTower(model.tower, DTYPE)
    assert isinstance(model.fusion, HierarchicalFusion)
    block = model.fusion.blocks[0]
    assert isinstance(block, CrossAttentionBlock)
    return {
        "tower": lambda: model.tower(batch.pixels),
        "frozen tower": lambda: frozen(batch.pixels),
        "projector": lambda: model.projector(features),
        "keys and values": lambda: torch.stack(model.fusion.keys_values(projected)[depth]),
        "cross-attention block": lambda: block(hidden, key=key, value=value, text=batch),
        "language model": lambda: model.language(hidden, batch),
        "head and loss": lambda: model.language.loss(hidden, batch.targets),
    }


NAMES = [
    "tower",
    "frozen tower",
    "projector",
    "keys and values",
    "cross-attention block",
    "language model",
    "head and loss",
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_layer(name: str, backend: str, models: dict[str, HiveModel], benchmark) -> None:
    layer = cases(models[backend])[name]

    def once() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=GPU):
            out = layer()
        if out.requires_grad:
            out.sum().backward()
        models[backend].zero_grad(set_to_none=True)
        if GPU:
            torch.cuda.synchronize()

    size = "full" if GPU else "small"
    benchmark.group = f"{name}, {RECIPE} ({size}), {SAMPLES} samples of {TOKENS} text tokens"
    benchmark.pedantic(once, rounds=10 if GPU else 3, warmup_rounds=2)
