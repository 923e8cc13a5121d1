"""The task of pre-training: image-caption pairs, three stages, and the tower as the export."""

from functools import partial
from pathlib import Path

from hive.config import Config
from hive.cost.flops import step_flops, text_lengths
from hive.data.pairs import EMBEDDED_HELDOUT, Pairs, open_pairs, split_heldout
from hive.data.text import Batch, Tokenizer, load_configured_tokenizer
from hive.distributed import World
from hive.export import export_tower
from hive.model.build import Model, build_model
from hive.model.kernel import kernel_for
from hive.stages import trained_parts
from hive.train.setup import encoder_for, place, prepare
from hive.train.task import Task, TrainingSet


def pretraining(config: Config, resume: bool, world: World) -> Task[Config, Tokenizer]:
    """The pre-training task of a configuration, with its data opened and its model on the device.

    Raises `UserError` for what is missing or doesn't fit together.
    """
    prepare(config, resume, world.size)
    backend = kernel_for(config.kernel, world.device)
    tokenizer = load_configured_tokenizer(config.language)
    data = open_data(config)
    model = build_model(config, backend)
    config = place(model, tokenizer, config, backend, world.device)
    return Task(
        program="python -m hive.train",
        unit="pairs",
        texts="captions",
        check="python -m hive.data",
        config=config,
        tokenizer=tokenizer,
        sets=dict.fromkeys((1, 2, 3), data),
        model=model,
        trained_parts=partial(trained_parts, config),
        encode=partial(encoder_for, model, config),
        flops=partial(flops, model),
        export=partial(_export, model),
    )


def open_data(config: Config) -> TrainingSet:
    """The pre-training set, divided into training and held-out pairs.

    An epoch has as many pairs as the whole set, held-out pairs included, as in the paper's numbers of steps.
    """
    return divide(config, open_pairs(config.data, config.image_root))


def divide(config: Config, pairs: Pairs) -> TrainingSet:
    """All pairs of a source, divided into training and held-out ones. Raises `UserError` where they are too few."""
    if config.data == "embedded":
        heldout = {split: open_pairs("embedded", None, split) for split in EMBEDDED_HELDOUT}
        return TrainingSet(pairs, heldout, len(pairs))
    train, held_out = split_heldout(pairs, config.dataset.heldout_pairs, config.seed)
    return TrainingSet(train, {"held_out": held_out}, len(pairs))


def flops(model: Model, batch: Batch, parts: frozenset[str]) -> float:
    """FLOPs of a micro-batch, forward and backward, where these parts are trained."""
    costs = step_flops(model, parts, batch.samples, text_lengths(batch.cu_seqlens.tolist()))
    return sum(cost.total for cost in costs.values())


def _export(model: Model, folder: Path) -> str:
    export_tower(model.tower.model, folder / "tower", model.tower.spec)
    return f"tower       {folder / 'tower'}"
