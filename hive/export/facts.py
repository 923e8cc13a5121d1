"""What is known about a trained tower: gathered from its run, kept in the metadata of every export of it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive.config import Config, Origin
from hive.export.origin import commit, versions
from hive.export.place import read_metadata
from hive.export.same_run import command_of
from hive.files import METRICS, read_records
from hive.model.vision import VisionTower
from hive.run_folder import START, is_model_folder, load_model_config
from hive.stages import trained_parts

FACTS = "hive"
"""In the metadata of an export's weights: the facts as JSON."""


@dataclass(frozen=True)
class Losses:
    """Held-out losses on one split at the end of the run, nats a token."""

    split: str
    right: float
    """With the pair's own image."""
    wrong: float
    """With another pair's image."""
    pairs: int


@dataclass(frozen=True)
class Facts:
    """Everything that a model card says of a trained tower beside its shape."""

    recipe: str
    method: str
    seed: int
    stages: tuple[int, ...]
    """The stages that were trained."""
    trains_tower: bool
    """Whether one of them trains the tower; otherwise its weights are those that the run started from."""
    steps: int
    """Optimiser steps over all stages."""
    origin: str | None
    """The trained model that --from named, in words; None for a run that started from none."""
    command: str | None
    """A command line that trains the same; None where the configuration is of no recipe."""

    tower_source: str | None
    """What the tower started from, None for fresh weights; so for the language model."""
    language_source: str | None
    language: str
    """The language model's family and shape in words."""
    read: tuple[int, ...]
    """The hidden states that the language model read: 0 = embeddings, k = output of layer k."""
    trained_layers: int
    """Layers of the whole tower while it was trained."""
    keeps_untrained: bool
    """Whether the export has the layers above the deepest hidden state that was read, and the tower's own pooling."""

    data: str
    data_fingerprint: str | None
    """SHA-256 over the pairs; None where no checkpoint of the run is left."""
    losses: tuple[Losses, ...]
    commit: str | None
    """Of the code that wrote the export; None where it did not run from a git checkout."""
    versions: Mapping[str, str]

    @property
    def deepest(self) -> int:
        """The deepest hidden state that was read: no layer above it was trained."""
        return self.read[-1]

    def metadata(self) -> dict[str, str]:
        """What the export's safetensors file keeps."""
        return {"format": "pt", FACTS: json.dumps(dataclasses.asdict(self))}


def gather_facts(run: Path, config: Config, tower: VisionTower, data_fingerprint: str | None, steps: int) -> Facts:
    """The facts of a run that has trained `tower` for `steps` steps; losses and stages are those in its metrics."""
    records = [record for record in read_records(run / METRICS) if record["step"] <= steps]
    stages = tuple(sorted({record["stage"] for record in records if record["kind"] == "train"})) or config.stages
    losses = tuple(
        Losses(record["kind"].removeprefix("heldout/"), record["right"], record["wrong"], record["pairs"])
        for record in records
        if record["kind"].startswith("heldout/") and record["step"] == steps and record["right"] is not None
    )
    language = config.language
    earlier = load_model_config(run / START, "--from") if is_model_folder(run / START) else None
    return Facts(
        recipe=config.recipe,
        method=config.method,
        seed=config.seed,
        stages=stages,
        trains_tower=any("tower" in trained_parts(config, stage) for stage in stages),
        steps=steps,
        origin=_describe(config.origin),
        command=command_of(config, stages, earlier),
        tower_source=_public(config.vision.weights),
        language_source=_public(language.weights),
        language=f"{language.family}, {language.layers} layers of {language.hidden_size}",
        read=tower.selected,
        trained_layers=len(tower.parts.layers),
        keeps_untrained=config.keep_untrained_layers,
        data=_public(config.data) or "",
        data_fingerprint=data_fingerprint,
        losses=losses,
        commit=commit(),
        versions=versions(),
    )


def read_facts(folder: Path) -> Facts | None:
    """The facts that an export's weights keep; None for weights that this version of HIVE did not export."""
    try:
        content: dict[str, Any] = json.loads(read_metadata(folder).get(FACTS, "{}"))
    except ValueError:
        return None
    if content.keys() != {field.name for field in dataclasses.fields(Facts)}:
        return None
    losses = tuple(Losses(**record) for record in content["losses"])
    content |= {"losses": losses, "stages": tuple(content["stages"]), "read": tuple(content["read"])}
    return Facts(**content)


def _describe(origin: Origin | None) -> str | None:
    """The model that a run started from, in words."""
    return None if origin is None else f"the model of {_public(origin.folder)} after {origin.step:,} steps"


def _public(source: str | None) -> str | None:
    """A source as others may see it: of an absolute path the last part alone."""
    return Path(source).name if source is not None and Path(source).expanduser().is_absolute() else source
