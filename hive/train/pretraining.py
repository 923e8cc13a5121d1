"""The task of pre-training: image-caption pairs, three stages, and the tower and the whole model as the export."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from hive.config import Config, Origin
from hive.cost.flops import step_flops, text_lengths
from hive.data.pairs import EMBEDDED_HELDOUT, Pairs, open_embedded, open_pairs, split_heldout
from hive.data.text import Batch, Tokenizer, load_configured_tokenizer
from hive.distributed import World
from hive.errors import UserError
from hive.export.facts import gather_facts
from hive.export.place import free_place
from hive.export.tower import export_tower, trained_form
from hive.model.build import Model, build_model
from hive.model.kernel import kernel_for
from hive.model_folder import Trained, digest, export_model
from hive.run_folder import MODEL, START
from hive.stages import trained_parts
from hive.train.setup import encoder_for, place, prepare
from hive.train.task import Task, TrainingSet
from hive.train.trained import read_trained, starting_folder

TOWER = "tower"  # in a run folder


def pretraining(config: Config, resume: bool, world: World) -> Task[Config, Tokenizer]:
    """The pre-training task of a configuration, with its data opened and its model on the device.

    Raises `UserError` for what is missing or doesn't fit together.
    """
    prepare(config, resume, world.size)
    backend = kernel_for(config.kernel, world.device)
    folder = starting_folder(config, resume)
    if folder is None:
        start = None
        tokenizer = load_configured_tokenizer(config.language)
        data = open_data(config)
        model = build_model(config, backend)
    else:
        data = open_data(config)
        start = read_trained(folder, backend, "--from", config.checkpoint_activations)
        tokenizer, model = start.tokenizer, start.model
        config = replace(config, origin=_origin(config.origin, start, resume))
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
        export_folders=(TOWER, MODEL) if config.export_model else (TOWER,),
        export=partial(_export, model, tokenizer, config, data.pairs.fingerprint),
        start=None if resume else start,
        continues=start is not None,
    )


def _origin(given: Origin | None, start: Trained, resume: bool) -> Origin:
    """What a run records of the model that it starts from; `UserError` where a resumed run began with another one."""
    assert given is not None, "the run starts from a trained model"
    origin = replace(given, step=start.step, weights=digest(start.model))
    if resume and origin != given:
        raise UserError(
            f"The {START}/ folder of the run is not what it began with: restore it, or start a new run with --from."
        )
    return origin


def open_data(config: Config) -> TrainingSet:
    """The pre-training set, divided into training and held-out pairs.

    An epoch has as many pairs as the whole set, held-out pairs included, as in the paper's numbers of steps.
    """
    return divide(config, open_pairs(config.data, config.image_root, config.dataset))


def divide(config: Config, pairs: Pairs) -> TrainingSet:
    """All pairs of a source, divided into training and held-out ones. Raises `UserError` where they are too few."""
    if config.data == "embedded":
        heldout = {split: open_embedded(split) for split in EMBEDDED_HELDOUT}
        return TrainingSet(pairs, heldout, len(pairs))
    train, held_out = split_heldout(pairs, config.dataset.heldout_pairs, config.seed)
    return TrainingSet(train, {"held_out": held_out}, pairs.epoch_pairs)


def flops(model: Model, batch: Batch, parts: frozenset[str]) -> float:
    """FLOPs of a micro-batch, forward and backward, where these parts are trained."""
    costs = step_flops(model, parts, batch.samples, text_lengths(batch.cu_seqlens.tolist()))
    return sum(cost.total for cost in costs.values())


def _export(model: Model, tokenizer: Tokenizer, config: Config, data_fingerprint: str, run: Path, step: int) -> str:
    folder = free_place(run / TOWER)
    facts = gather_facts(run, config, model.tower, data_fingerprint, step)
    export_tower(trained_form(model.tower.model, facts), folder, model.tower.spec, facts)
    tower = f"tower       {folder}"
    if not config.export_model:
        return tower
    folder = free_place(run / MODEL)
    export_model(Trained(config, model, tokenizer, step), folder)
    return f"{tower}\nmodel       {folder}"
