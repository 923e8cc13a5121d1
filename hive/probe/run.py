"""One probe: features, heads over the grid, the best point by validation, its accuracy on the test images."""

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
    """What one kind of head reached."""

    head: HeadName
    """attention: the authors' probe; mean, cls: linear on the mean of the patch tokens, or on the class token."""
    test: list[float]
    """Share of the test images that each seed's head gets right, at the chosen grid point."""
    learning_rate: float
    weight_decay: float
    validation: list[list[float]]
    """Share of the validation images by seed and grid point, in the order of `Protocol.grid`."""

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.test)

    @property
    def deviation(self) -> float | None:
        """Sample deviation over the seeds; None of one."""
        return statistics.stdev(self.test) if len(self.test) > 1 else None


def check_heads(tower: ProbedTower, heads: Sequence[HeadName] | None) -> tuple[HeadName, ...]:
    """The kinds of heads to train: all that the tower allows, unless they are named."""
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

    Best is the highest mean over the seeds; no test image is looked at before. Heads are not trained again on the
    validation images. With `cache` features are kept there, otherwise in memory; without `cache_tokens` the tower runs
    in every epoch for the attention head, and with augmentation for all. Images that can't be read are not trained on,
    and count as wrong in the test.
    """
    names = check_heads(tower, heads)
    augmentation = Augmentation(tower.spec.size) if protocol.augment else None
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    needs_tokens = "attention" in names and cache_tokens
    with_tokens = [name for name in splits if needs_tokens and not (augmentation and name == "train")]
    features = all_features(tower, splits, with_tokens=with_tokens, cache=cache, workers=workers, say=say)
    good = {name: np.flatnonzero(~found.bad) for name, found in features.items()}

    def source(split: str, augmentation: Augmentation | None = None) -> Source:
        return _source(tower, splits[split], features[split], names, workers, augmentation)

    trained = fresh_heads(names, tower, len(data.classes), protocol)
    train(trained, source("train", augmentation), data.train.labels, good["train"], protocol, say)
    batch = protocol.batch_size
    right = count_right(trained, source("validation"), data.validation.labels, good["validation"], batch)
    best = {}
    for name, head in trained.items():
        best[name] = int(right[name].sum(0).argmax())
        head.keep(best[name])
    tested = count_right(trained, source("test"), data.test.labels, good["test"], batch)
    return [
        HeadResult(
            name,
            (tested[name][:, 0].double() / len(data.test)).tolist(),
            *protocol.grid[best[name]],
            (right[name].double() / max(1, len(good["validation"]))).tolist(),
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
    """`probe` of a tower in memory on images in memory, without a cache.

    Each split is (uint8 [n, H, W, 3] or grey [n, H, W], classes from 0 as int64 [n]). `model` stays as it is.
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


def _source(
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
