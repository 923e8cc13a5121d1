"""The lines about a run's data that are printed at its start."""

from hive.config import RunConfig
from hive.data.summary import Reading, describe, describe_epoch, sample, warn, warn_of_losses
from hive.data.text import Encoder
from hive.train.task import Task


def summarise_data(task: Task[RunConfig, Encoder]) -> str:
    """Lines and warnings about the data of each stage, from a sample; stages that share a set share the lines."""
    config = task.config
    reading = Reading(task.tokenizer, task.model.tower.spec, config.dataset, task.unit, task.texts, task.check)
    stages_of: dict[int, list[int]] = {}
    for stage in config.stages:
        stages_of.setdefault(id(task.sets[stage]), []).append(stage)
    lines: list[str] = []
    for stages in stages_of.values():
        data = task.sets[stages[0]]
        facts = sample(data.pairs, reading)
        batch_sizes = {stage: config.schedule(stage).batch_size for stage in stages}
        lines += [
            *describe(facts, reading, data.pairs),
            describe_epoch(task.unit, data.epoch_pairs, batch_sizes, data.heldout, data.pairs),
            *warn_of_losses(data.pairs, facts, reading),
            *warn(facts, reading),
        ]
    return "\n".join(lines)
