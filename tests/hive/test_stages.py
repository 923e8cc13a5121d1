"""What each stage trains, and for how many steps."""

import math

from hive.config import Config
from hive.data.order import steps
from hive.recipes import load_recipe
from hive.stages import trained_parts


def test_the_paper_recipes_are_table_3() -> None:
    config = load_recipe("clip-l-336-mobilellm-350m")
    lengths = [steps(config.schedule(s).epochs, 595_375, config.schedule(s).batch_size) for s in (1, 2, 3)]
    assert lengths == [2326, 4652, 581]
    assert [math.ceil(config.schedule(s).warmup * n) for s, n in zip((1, 2, 3), lengths, strict=True)] == [70, 140, 18]
    assert [config.schedule(s).clip for s in (1, 2, 3)] == [1.0, 10.0, 10.0]


def test_what_each_stage_trains() -> None:
    assert trained_parts(Config(), 1) == {"projector", "fusion"}
    assert trained_parts(Config(stage1="projector", gate=False), 1) == {"projector"}
    assert trained_parts(Config(), 2) == {"projector", "fusion", "language"}
    assert trained_parts(Config(), 3) == {"projector", "fusion", "language", "tower"}
