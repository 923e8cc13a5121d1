"""What a run trains, on what, and what it leaves behind: all that the loop knows of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from hive.config import RunConfig
from hive.data.pairs import Pairs
from hive.data.text import Batch, Encoder
from hive.model.build import Model

ConfigT = TypeVar("ConfigT", bound=RunConfig, covariant=True)
EncoderT = TypeVar("EncoderT", bound=Encoder, covariant=True)

Encode = Callable[[Tensor], Tensor]
"""Pixels uint8 [B, 3, H, W] to the selected hidden states [S, B, N, Dv]."""


class TrainingSet(NamedTuple):
    """What a stage trains and is evaluated on."""

    pairs: Pairs
    heldout: dict[str, Pairs]
    """Splits by name."""
    epoch_pairs: int
    """Pairs that make an epoch's steps."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Task(Generic[ConfigT, EncoderT]):
    """One kind of run, ready to be trained by `Trainer`: `pretraining` makes one, `hive.vlm.fine_tuning` another."""

    program: str
    """The command that continues a stopped run, such as "python -m hive.train"."""
    unit: str
    """What a batch consists of, in the plural."""
    config: ConfigT
    """With the shapes that the model has, the kernel that is used and the type of the device."""
    tokenizer: EncoderT
    sets: Mapping[int, TrainingSet]
    """By stage."""
    model: Model
    """fp32, on the device."""
    trained_parts: Callable[[int], frozenset[str]]
    """The names in `model.parts()` that have gradients in a stage."""
    encode: Callable[[frozenset[str]], Encode]
    """What encodes images in a stage that trains these parts."""
    flops: Callable[[Batch, frozenset[str]], float]
    """FLOPs of a micro-batch, forward and backward, where these parts are trained."""
    export: Callable[[Path], str]
    """Writes what the run was for into the run folder; returns the line that says where it is."""
