"""CIFAR-10 and CIFAR-100 in their "python version": pickles, of which no code is run."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from hive.probe.datasets.images import ClassificationSet, LabelledImages, assemble, from_array
from hive.probe.datasets.layout import broken, require, unpacked

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SOURCE_10 = f"get cifar-10-python.tar.gz from {PAGE}"
SOURCE_100 = f"get cifar-100-python.tar.gz from {PAGE}"
SIDE = 32
ALLOWED = {  # all that a pickled dictionary of numpy arrays needs, in the spellings of both major versions
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    """Refuses every class and function but those that make numpy arrays and bytes."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a data file does not need")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def open_cifar10(root: Path) -> ClassificationSet:
    """Reads cifar-10-batches-py/: data_batch_1 to 5, test_batch, batches.meta."""
    folder = unpacked(root, "cifar-10-batches-py")
    names = _unpickle(folder / "batches.meta", SOURCE_10).get(b"label_names")
    classes = _decode_class_names(folder / "batches.meta", names, 10, SOURCE_10)
    batches = [_read_batch(folder / f"data_batch_{number}", b"labels", 10, SOURCE_10) for number in range(1, 6)]
    train = from_array(
        np.concatenate([pixels for pixels, _ in batches]), np.concatenate([labels for _, labels in batches]), "train"
    )
    return assemble("cifar-10", classes, train, _read_test(folder / "test_batch", b"labels", 10, SOURCE_10))


def open_cifar100(root: Path) -> ClassificationSet:
    """Reads cifar-100-python/: train, test, meta. The labels are the 100 fine classes."""
    folder = unpacked(root, "cifar-100-python")
    names = _unpickle(folder / "meta", SOURCE_100).get(b"fine_label_names")
    classes = _decode_class_names(folder / "meta", names, 100, SOURCE_100)
    train = from_array(*_read_batch(folder / "train", b"fine_labels", 100, SOURCE_100), "train")
    return assemble("cifar-100", classes, train, _read_test(folder / "test", b"fine_labels", 100, SOURCE_100))


def _read_test(path: Path, key: bytes, classes: int, source: str) -> LabelledImages:
    return from_array(*_read_batch(path, key, classes, source), "test")


def _unpickle(path: Path, source: str) -> dict[bytes, Any]:
    require(path, source)
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise broken(path, str(error) or type(error).__name__, source) from error
    if not isinstance(content, dict):
        raise broken(path, "it holds no dictionary", source)
    return content


def _read_batch(path: Path, key: bytes, classes: int, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (pixels uint8 [n, 32, 32, 3], labels int64 [n]); `key` names the list of labels."""
    content = _unpickle(path, source)
    data = content.get(b"data")
    if not (
        isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3 * SIDE**2
    ):
        raise broken(path, "its data is no uint8 array of rows of 3,072", source)
    try:
        labels = np.asarray(content[key], dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise broken(path, f"it has no list {key.decode()} of whole numbers", source) from error
    if labels.shape != (len(data),) or not ((labels >= 0) & (labels < classes)).all():
        raise broken(path, f"its {key.decode()} are not {len(data)} numbers from 0 to {classes - 1}", source)
    return np.ascontiguousarray(data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)), labels


def _decode_class_names(path: Path, names: Any, count: int, source: str) -> list[str]:
    if not (isinstance(names, list) and len(names) == count and all(isinstance(name, bytes) for name in names)):
        raise broken(path, f"it does not name {count} classes", source)
    return [name.decode("utf-8", "replace") for name in names]
