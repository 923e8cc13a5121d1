"""A probe: compute features, train heads at all grid points, choose the best in validation, test it."""

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from hive.errors import UserError
from hive.probe.augment import Augmentation
from hive.probe.datasets.images import ClassificationSet, LabelledImages, from_array
from hive.probe.features import Features, all_features
from hive.probe.fit import count_right, fresh_heads, train
from hive.probe.inputs import CachedSource, Source, TowerSource
from hive.probe.protocol import HEADS, HeadName, Protocol
from hive.probe.tower import ProbedTower


@dataclass(frozen=True)
class HeadResult:
    """Accuracy of one kind of head."""

    head: HeadName
    """attention is the authors' probe; mean is linear on the mean of the patch tokens, cls on the class token."""
    test: list[float]
    """Share of the test images that each seed's head gets right, at the chosen grid point."""
    learning_rate: float
    weight_decay: float
    validation: list[list[float]]
    """Share of the validation images that are right, by seed and grid point, in the order of `Protocol.grid`."""

    @property
    def mean(self) -> float:
        """Mean test accuracy over the seeds, 0..1."""
        return statistics.fmean(self.test)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of the test accuracy over the seeds; None where there is one seed."""
        return statistics.stdev(self.test) if len(self.test) > 1 else None


def check_heads(tower: ProbedTower, heads: Sequence[HeadName] | None) -> tuple[HeadName, ...]:
    """Returns the kinds of heads to train: `heads`, or all that the tower allows where it is None.

    Raises `UserError` for cls where the tower has no class token.
    """
    possible = tuple(head for head in HEADS if head != "cls" or tower.class_tokens)
    if heads is None:
        return possible
    if not set(heads) <= set(possible):
        known = " and ".join(possible)
        raise UserError(f"--heads has cls, but a {tower.family.title} tower has no class token: choose from {known}.")
    return tuple(dict.fromkeys(heads))


def probe(
    tower: ProbedTower,
    data: ClassificationSet,
    protocol: Protocol,
    *,
    heads: Sequence[HeadName] | None = None,
    cache: Path | None = None,
    cache_tokens: bool = True,
    workers: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> list[HeadResult]:
    """Trains every kind of head at every grid point and seed, and tests the point that is best in validation.

    Best is the highest mean over the seeds; no test image is used before that choice. Heads are not trained again on
    the validation images. Features are kept in the folder `cache`, or in memory where it is None. Without
    `cache_tokens` the tower runs in every epoch for the attention head, and with augmentation for all heads. Images
    that can't be read are not trained on, and count as wrong in the test. `say` gets each line of progress.
    """
    names = check_heads(tower, heads)
    augmentation = Augmentation(tower.spec.size) if protocol.augment else None
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    needs_tokens = "attention" in names and cache_tokens
    with_tokens = [name for name in splits if needs_tokens and not (augmentation and name == "train")]
    features = all_features(tower, splits, with_tokens=with_tokens, cache=cache, workers=workers, say=say)
    readable = {name: np.flatnonzero(~split.bad) for name, split in features.items()}

    def make_source(split: str, augmentation: Augmentation | None = None) -> Source:
        return _make_source(tower, splits[split], features[split], names, workers, augmentation)

    trained = fresh_heads(names, tower, len(data.classes), protocol)
    train(trained, make_source("train", augmentation), data.train.labels, readable["train"], protocol, say)
    batch = protocol.batch_size
    right = count_right(trained, make_source("validation"), data.validation.labels, readable["validation"], batch)
    best = {}
    for name, head in trained.items():
        best[name] = int(right[name].sum(0).argmax())
        head.keep(best[name])
    right_in_test = count_right(trained, make_source("test"), data.test.labels, readable["test"], batch)
    return [
        HeadResult(
            name,
            (right_in_test[name][:, 0].double() / len(data.test)).tolist(),
            *protocol.grid[best[name]],
            (right[name].double() / max(1, len(readable["validation"]))).tolist(),
        )
        for name in names
    ]


def probe_accuracy(
    model: PreTrainedModel,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    protocol: Protocol,
    layer: int | None = None,
    heads: Sequence[HeadName] | None = None,
    device: str = "cpu",
) -> list[HeadResult]:
    """Returns the results of `probe` for a transformers model and arrays of images, without a cache.

    Each split is (uint8 [n, H, W, 3] or grey [n, H, W], classes from 0 as int64 [n]). `model` is not changed.
    """
    count = 1 + int(max(labels.max() for _, labels in (train, validation, test)))
    data = ClassificationSet(
        "in memory",
        [str(label) for label in range(count)],
        from_array(*train, "train"),
        from_array(*validation, "validation"),
        from_array(*test, "test"),
        split="as given",
    )
    return probe(ProbedTower(copy.deepcopy(model), layer, device), data, protocol, heads=heads)


def _make_source(
    tower: ProbedTower,
    images: LabelledImages,
    features: Features,
    names: Sequence[HeadName],
    workers: int,
    augmentation: Augmentation | None,
) -> Source:
    if augmentation is not None or ("attention" in names and features.tokens is None):
        return TowerSource(tower, images, names, workers, augmentation)
    return CachedSource(features, names, tower.device)
