"""Times reading, decoding and packing of the embedded pairs: images a second."""

import dataclasses

import pytest
import torch

from hive.data.loader import batches
from hive.data.pairs import open_embedded
from hive.data.text import load_tokenizer
from hive.model.families import TOWERS
from hive.recipes import load_recipe

GPU = torch.cuda.is_available()
BATCH, STEPS = 64, 4


@pytest.mark.parametrize("size", [64, 384])
@pytest.mark.parametrize("workers", [0, 8 if GPU else 1])
def test_loading(workers: int, size: int, benchmark) -> None:
    config = dataclasses.replace(load_recipe("demo").dataset, workers=workers)
    pairs, tokenizer = open_embedded("train"), load_tokenizer()
    spec = TOWERS["siglip"].image_spec(size)

    def once() -> None:
        stream = batches(
            pairs,
            tokenizer,
            spec,
            config,
            seed=0,
            batch_size=BATCH,
            micro_batch_size=BATCH,
            first_step=0,
            steps=STEPS,
            pin=GPU,
        )
        assert sum(batch.samples for (batch,) in stream) == BATCH * STEPS

    benchmark.group = f"data, {BATCH * STEPS} images of {size} px"
    benchmark.pedantic(once, rounds=3, warmup_rounds=1)
    benchmark.extra_info["images_per_second"] = BATCH * STEPS / benchmark.stats["median"]
