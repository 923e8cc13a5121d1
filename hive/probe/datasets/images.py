"""Labelled images of every layout: names and labels in memory, pixels read on demand."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hive.data.images import BadImage, ImageSpec, fit, load
from hive.data.pairs import hash_order
from hive.errors import UserError

MAX_MEGAPIXELS = 64.0
VALIDATION_SHARE, MOST_VALIDATION = 0.1, 10_000


class ImageReader:
    """Reads an image by its row. It can be pickled, and opens no file before the first call."""

    def pixels(self, row: int, spec: ImageSpec) -> torch.Tensor:
        """Returns the image as the tower's input, uint8 [3, size, size]; `BadImage` where it can't be read."""
        raise NotImplementedError

    def describe(self, row: int) -> bytes:
        """Returns bytes for a fingerprint, which differ between images: path and size of the file, or the pixels."""
        raise NotImplementedError


@dataclass(frozen=True)
class Files(ImageReader):
    """Encoded images in a folder."""

    root: Path
    paths: Sequence[str]
    """Below `root`."""

    def pixels(self, row: int, spec: ImageSpec) -> torch.Tensor:
        try:
            data = (self.root / self.paths[row]).read_bytes()
        except OSError as error:
            raise BadImage(f"can't be read ({error.strerror})") from None
        return load(data, spec, MAX_MEGAPIXELS)

    def describe(self, row: int) -> bytes:
        try:
            size = os.stat(self.root / self.paths[row]).st_size
        except OSError:
            size = -1
        return f"{self.paths[row]} {size}\n".encode("utf-8", "surrogatepass")


@dataclass(frozen=True, eq=False)
class Arrays(ImageReader):
    """Decoded images of one size."""

    array: np.ndarray
    """uint8 [n, H, W, 3], or [n, H, W] in grey."""

    def pixels(self, row: int, spec: ImageSpec) -> torch.Tensor:
        return fit(Image.fromarray(self.array[row]).convert("RGB"), spec)

    def describe(self, row: int) -> bytes:
        return np.ascontiguousarray(self.array[row]).tobytes()


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One split of a classification set."""

    labels: np.ndarray
    """Class of each image, int64 [n]."""
    names: Sequence[str]
    """Name of each image: its path below the set's root, or the split and its row."""
    reader: ImageReader
    rows: np.ndarray = field(repr=False)
    """Row of the reader for each image, int64 [n]."""

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int, spec: ImageSpec) -> torch.Tensor:
        """Returns image `index` as the tower's input, uint8 [3, size, size]; `BadImage` where it can't be read."""
        return self.reader.pixels(int(self.rows[index]), spec)

    def take(self, indices: Sequence[int] | np.ndarray) -> "LabelledImages":
        """The images at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(self, labels=self.labels[chosen], names=[self.names[i] for i in chosen], rows=self.rows[chosen])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every file's name and size, or over the pixels of decoded images; labels don't count."""
        digest = hashlib.sha256(type(self.reader).__name__.encode())
        for row in self.rows:
            digest.update(self.reader.describe(int(row)))
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ClassificationSet:
    """Training, validation and test images, with the names of their classes."""

    name: str
    classes: Sequence[str]
    train: LabelledImages
    validation: LabelledImages
    """The grid point is chosen on these."""
    test: LabelledImages
    split: str
    """Where training, validation and test images come from, and how many there are, in words."""


def from_files(root: Path, paths: Sequence[str], labels: Sequence[int]) -> LabelledImages:
    """Returns images in files; `paths` are below `root`."""
    return _label_rows(np.asarray(labels, dtype=np.int64), paths, Files(root, paths))


def from_array(array: np.ndarray, labels: np.ndarray, prefix: str) -> LabelledImages:
    """Returns decoded images, uint8 [n, H, W, 3] or [n, H, W]; `prefix` starts their names."""
    names = [f"{prefix}:{row}" for row in range(len(array))]
    return _label_rows(np.asarray(labels, dtype=np.int64), names, Arrays(array))


def _label_rows(labels: np.ndarray, names: Sequence[str], reader: ImageReader) -> LabelledImages:
    """Returns one labelled image for each row of the reader."""
    assert len(labels) == len(names), (len(labels), len(names))
    return LabelledImages(labels, names, reader, np.arange(len(labels), dtype=np.int64))


def assemble(
    name: str,
    classes: Sequence[str],
    train: LabelledImages,
    test: LabelledImages,
    validation: LabelledImages | None = None,
    test_is: str = "the official test split",
) -> ClassificationSet:
    """Returns the set with its official validation split, or a tenth of training (at most 10,000) held out by hash.

    `test_is` says what the test images are. Raises `UserError` where a split is empty, or training has one class only.
    """
    held = "the official validation split"
    if validation is None:
        train, validation = _hold_out(train)
        held = "held out of training by hash"
    for split, images in (("training", train), ("validation", validation), ("test", test)):
        if len(images) == 0:
            raise UserError(f"The {name} data has no {split} images: give the complete set.")
    if len(np.unique(train.labels)) < 2:
        raise UserError(f"The {name} data has training images of one class only: give at least two classes.")
    split = f"{len(train):,} training, {len(validation):,} validation ({held}), {len(test):,} test images ({test_is})"
    return ClassificationSet(name, classes, train, validation, test, split)


def _hold_out(images: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Returns (training, validation); a hash of the names chooses the validation images."""
    count = min(MOST_VALIDATION, max(1, round(VALIDATION_SHARE * len(images)))) if len(images) > 1 else 0
    order = hash_order(images.names, 0)
    return images.take(sorted(order[count:])), images.take(sorted(order[:count]))


def split_by_class(images: LabelledImages, in_training: Callable[[int], int]) -> tuple[LabelledImages, LabelledImages]:
    """Returns (train, test) of a set without official splits.

    Of each class of n images, the first in_training(n) in an order by hash are for training.
    """
    train: list[int] = []
    test: list[int] = []
    order = np.asarray(hash_order(images.names, 0))
    for label in np.unique(images.labels):
        members = order[images.labels[order] == label]
        count = in_training(len(members))
        train += members[:count].tolist()
        test += members[count:].tolist()
    return images.take(sorted(train)), images.take(sorted(test))
