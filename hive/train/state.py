"""The state of a run between two steps: its position, and saving it in and restoring it from a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hive import checkpoint
from hive.config import RunConfig
from hive.data.ledger import Ledger
from hive.data.text import Encoder
from hive.errors import UserError
from hive.run_folder import fingerprint
from hive.stages import stage_steps
from hive.train.stage import Stage
from hive.train.task import Task

CHECKPOINTS = "checkpoints"  # in a run folder


@dataclass
class Position:
    """The stage and the step that a run has reached."""

    stage: int
    """Counted from 1."""
    stage_step: int = 0
    """Optimiser steps taken in the stage."""
    step: int = 0
    """Optimiser steps taken in the whole run."""


@dataclass
class State:
    """What a run starts or resumes from, apart from the model's weights."""

    position: Position
    optimizer: dict[str, torch.Tensor] = field(default_factory=dict)
    """The checkpoint's tensors of the stage's optimiser, by name; empty for a new run."""
    ledger: dict[str, int] = field(default_factory=dict)
    """Samples `seen` and `bad` so far."""


def fingerprints(task: Task[RunConfig, Encoder]) -> dict[str, str]:
    """SHA-256 of what must stay the same where a run is resumed: configuration, tokenizer and data."""
    return {
        "config": fingerprint(task.config),
        "tokenizer": task.tokenizer.fingerprint,
        "data": "-".join(dict.fromkeys(data.pairs.fingerprint for data in task.sets.values())),
    }


def save(
    task: Task[RunConfig, Encoder],
    stage: Stage,
    position: Position,
    ledger: Ledger,
    folder: Path,
    run_fingerprints: dict[str, str],
) -> None:
    """Writes a checkpoint of model, optimiser, position and the ledger's counts into the run folder.

    `run_fingerprints` are those of `fingerprints`. Raises `CheckpointError` where it can't be written.
    """
    tensors = {f"model.{name}": parameter.detach() for name, parameter in task.model.named_parameters()}
    for name, parameter in stage.parameters.items():
        tensors |= {f"optimizer.{name}.{key}": value for key, value in stage.optimizer.state[parameter].items()}
    checkpoint.save(
        folder / CHECKPOINTS,
        step=position.step,
        tensors=tensors,
        scalars={**vars(position), "ledger": {"seen": ledger.seen, "bad": ledger.bad}},
        fingerprints=run_fingerprints,
        keep=task.config.keep_checkpoints,
    )


def restore(
    task: Task[RunConfig, Encoder], folder: Path, run_fingerprints: dict[str, str], warn: Callable[[str], None]
) -> State:
    """Loads the newest whole checkpoint of a run folder into the task's model; returns the state to resume from.

    A run that was stopped before its first checkpoint begins again. Raises `UserError` where the checkpoint belongs to
    another configuration, tokenizer or data set, or where --stages leaves out the stage that it is in.
    """
    newest = checkpoint.newest(folder / CHECKPOINTS, warn)
    if newest is None:
        return State(Position(task.config.stages[0]))
    saved = checkpoint.load(newest)
    checkpoint.check_fingerprints(saved.fingerprints, run_fingerprints)
    position = Position(*(saved.scalars[name] for name in ("stage", "stage_step", "step")))
    steps = stage_steps(task.config, position.stage, task.sets[position.stage].epoch_pairs)
    _check_stages(task.config, position.stage, position.stage_step < steps)
    with torch.no_grad():
        for name, parameter in task.model.named_parameters():
            parameter.copy_(saved.tensors[f"model.{name}"])
    optimizer = {name: tensor for name, tensor in saved.tensors.items() if name.startswith("optimizer.")}
    return State(position, optimizer, saved.scalars.get("ledger", {}))


def _check_stages(config: RunConfig, stage: int, unfinished: bool) -> None:
    """Raises `UserError` for --stages without the `unfinished` stage of a resumed run, or without one that is left."""
    if (unfinished and stage not in config.stages) or max(config.stages) < stage:
        chosen = ",".join(map(str, config.stages))
        raise UserError(
            f"--stages is {chosen}, but the run stopped in the middle of stage {stage}: include {stage}."
            if unfinished
            else f"--stages is {chosen}, but the run has already finished stage {stage}: add a later one."
        )
