"""Within a step the host never waits for the GPU."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from hive.cost.cases import empty_batch
from hive.cost.simulate import StageShape, simulate
from hive.data.loader import batches
from hive.distributed import World
from hive.model.build import build_model
from hive.stages import trained_parts
from hive.train.cli import parse
from hive.train.pretraining import pretraining
from hive.train.stage import begin_stage
from hive.train.trainer import Trainer
from tests.support.tiny_run import TINY

METHODS = pytest.mark.parametrize("method", ["--fusion=cross", "--fusion=joint", "--method=self-attention"])


@METHODS
def test_a_step_asks_for_no_value(method: str) -> None:
    """On tensors without values whatever reads one, or makes a shape from one, raises an error."""
    config = parse([*TINY, method]).config
    with torch.device("meta"):
        model = build_model(config, "torch", pretrained=False)
    batch = empty_batch((5,) * 4, model)
    simulate(
        model, [StageShape(trained_parts(config, s), config.schedule(s), batch) for s in (1, 2, 3)], torch.bfloat16
    )


@pytest.mark.gpu
@METHODS
@pytest.mark.parametrize("kernel", ["torch", "triton"])
@pytest.mark.parametrize("stage", [2, 3])
def test_a_step_waits_for_nothing_on_a_gpu(method: str, kernel: str, stage: int, tmp_path: Path) -> None:
    # heads of 32 channels, so that torch's packed attention takes them
    shape = ["--language.hidden-size", "64", "--device", "cuda", "--kernel", kernel, "--out", str(tmp_path / "out")]
    config = parse([*TINY, *shape, method]).config
    world = World(0, 1, torch.device("cuda", 0))
    task = pretraining(config, False, world)
    trainer = Trainer(task, False, world, Console(quiet=True))
    begun = begin_stage(task, stage, {})
    steps = list(
        batches(
            begun.data.pairs,
            task.tokenizer,
            task.model.tower.spec,
            config.dataset,
            seed=0,
            batch_size=8,
            micro_batch_size=4,
            first_step=0,
            steps=4,
            pin=True,
        )
    )
    for micro_batches in steps[:3]:  # compiles, self-checks, makes the optimiser's state
        trainer.train_step(begun, micro_batches, 1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(begun, steps[3], 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
