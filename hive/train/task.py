"""A task: the model that a run trains, its data, and its export. The training loop knows nothing else of the run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from hive.config import RunConfig
from hive.data.pairs import Pairs
from hive.data.text import Batch, Encoder
from hive.model.build import Model
from hive.model.vision import Encode
from hive.model_folder import Trained

ConfigT = TypeVar("ConfigT", bound=RunConfig, covariant=True)
EncoderT = TypeVar("EncoderT", bound=Encoder, covariant=True)


class TrainingSet(NamedTuple):
    """The pairs that a stage trains on, and those that it is evaluated on."""

    pairs: Pairs
    heldout: dict[str, Pairs]
    """Held-out pairs by the name of their split."""
    epoch_pairs: int
    """Pairs from which an epoch's number of steps is computed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Task(Generic[ConfigT, EncoderT]):
    """One kind of run, ready to be trained by `Trainer`: `pretraining` makes one, `hive.vlm.fine_tuning` another."""

    program: str
    """The command that continues a stopped run, such as "python -m hive.train"."""
    unit: str
    """What a batch consists of, in the plural, such as "pairs"."""
    texts: str
    """What their texts are called, such as "captions"."""
    check: str
    """The command that checks such data, such as "python -m hive.data"."""
    config: ConfigT
    """The run's configuration, with the model's real shapes, the kernel in use and the type of the device."""
    tokenizer: EncoderT
    sets: Mapping[int, TrainingSet]
    """By stage."""
    model: Model
    """fp32, on the device."""
    trained_parts: Callable[[int], frozenset[str]]
    """The names in `model.parts()` that have gradients in a stage."""
    encode: Callable[[frozenset[str]], Encode]
    """Makes the function that encodes images in a stage that trains these parts."""
    flops: Callable[[Batch, frozenset[str]], float]
    """FLOPs of a micro-batch, forward and backward, where these parts are trained."""
    export_folders: tuple[str, ...]
    """Names of the folders that `export` writes in the run folder, where nothing else is there already."""
    export: Callable[[Path, int], str]
    """Writes what was trained into the run folder, after this many steps; returns a line that says where it is."""
    start: Trained | None = None
    """The trained model that a new run starts from, and keeps a copy of in its folder; its weights are `model`'s."""
    continues: bool = False
    """Whether a trained model's weights are what the run, new or resumed, started from."""
