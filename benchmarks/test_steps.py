"""Times whole training steps: every method and stage; the paper's SigLIP recipe on a GPU, the small demo on a CPU."""

import gc
from itertools import cycle

import pytest
import torch

from hive.cost.cases import random_batch
from hive.cost.methods import METHODS, Method, build, configured
from hive.efficiency.measure import make_step
from hive.optimizer import build_optimizer
from hive.recipes import load_recipe
from hive.stages import enter_stage, trained_parts

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
RECIPE = "siglip-l-384-mobilellm-350m" if GPU else "demo"
SAMPLES = 32 if GPU else 8
SIZE = "full" if GPU else "small"


@pytest.mark.parametrize("tokens", [16, 77] if GPU else [16])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_step(method: Method, stage: int, tokens: int, benchmark) -> None:
    config = configured(load_recipe(RECIPE), method)
    gc.collect()
    with torch.device(DEVICE):
        model = build(config, method, "torch")
    parts, schedule = trained_parts(config, stage), config.schedule(stage)
    optimizer = build_optimizer(enter_stage(model, parts), schedule)
    batch = random_batch((tokens,) * SAMPLES, model)
    step = make_step(model, parts, schedule, optimizer, cycle([batch.pin_memory() if GPU else batch]), DEVICE)

    def once() -> None:
        step()
        if GPU:
            torch.cuda.synchronize()

    benchmark.group = f"training step, stage {stage}, {RECIPE} ({SIZE}), {SAMPLES} samples of {tokens} text tokens"
    try:
        once()
    except torch.OutOfMemoryError:
        del step, optimizer, model
        torch.cuda.empty_cache()
        pytest.skip(f"{SAMPLES} samples do not fit")
    benchmark.pedantic(once, rounds=5 if GPU else 3, warmup_rounds=1)
    benchmark.extra_info["images_per_second"] = SAMPLES / benchmark.stats["median"]
