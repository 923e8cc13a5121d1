"""Fashion-MNIST's idx files, packed with gzip or unpacked."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from hive.probe.datasets.images import ClassificationSet, LabelledImages, assemble, from_array
from hive.probe.datasets.layout import broken, require

SOURCE = "get its four files from https://github.com/zalandoresearch/fashion-mnist or Debian's dataset-fashion-mnist"
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def open_fashion_mnist(root: Path) -> ClassificationSet:
    """Reads train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k files, each with or without .gz."""
    return assemble("fashion-mnist", CLASSES, _read_split(root, "train"), _read_split(root, "t10k"))


def _read_split(root: Path, prefix: str) -> LabelledImages:
    images = _read_idx(root, f"{prefix}-images-idx3-ubyte", dimensions=3)
    labels = _read_idx(root, f"{prefix}-labels-idx1-ubyte", dimensions=1)
    path = root / f"{prefix}-labels-idx1-ubyte"
    if len(images) != len(labels):
        raise broken(path, f"it has {len(labels)} labels for {len(images)} images", SOURCE)
    if len(labels) and labels.max() >= len(CLASSES):
        raise broken(path, f"it has the label {labels.max()}, but there are {len(CLASSES)} classes", SOURCE)
    return from_array(images, labels.astype(np.int64), prefix)


def _read_idx(root: Path, name: str, dimensions: int) -> np.ndarray:
    """Returns the array in an idx file, uint8: bytes 0, 0, 8, number of dimensions, big-endian sizes, the data."""
    packed = root / f"{name}.gz"
    path = packed if packed.exists() else require(root / name, SOURCE)
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path == packed else data
    except (OSError, EOFError, zlib.error) as error:
        raise broken(path, str(error), SOURCE) from error
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, 8, dimensions]):
        raise broken(path, f"it is no idx file of bytes in {dimensions} dimensions", SOURCE)
    shape = np.frombuffer(data, ">u4", dimensions, 4).astype(np.int64)
    if len(data) - header != shape.prod():
        raise broken(path, f"it has {len(data) - header:,} bytes of data where {shape.prod():,} belong", SOURCE)
    return np.frombuffer(data, np.uint8, -1, header).reshape(shape)
