"""Stanford Cars: cars_train and cars_test with MATLAB annotations."""

from pathlib import Path
from typing import Any

import numpy as np

from hive.errors import UserError
from hive.probe.datasets.images import ClassificationSet, LabelledImages, assemble, from_files
from hive.probe.datasets.layout import broken, require, require_all

SOURCE = (
    "get cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat of Stanford Cars "
    "(https://ai.stanford.edu/~jkrause/cars/car_dataset.html)"
)


def open_cars(root: Path) -> ClassificationSet:
    """Reads cars_train/, cars_test/, devkit/cars_meta.mat, devkit/cars_train_annos.mat and
    cars_test_annos_withlabels.mat."""
    meta = root / "devkit" / "cars_meta.mat"
    try:
        classes = [str(name) for name in np.atleast_1d(_read_mat(meta, "class_names"))]
    except ValueError as error:
        raise broken(meta, str(error), SOURCE) from error
    train = _read_split(root, "cars_train", root / "devkit" / "cars_train_annos.mat", len(classes))
    labelled = root / "cars_test_annos_withlabels.mat"
    in_devkit = root / "devkit" / labelled.name  # where some mirrors keep it
    test = _read_split(root, "cars_test", in_devkit if in_devkit.exists() else labelled, len(classes))
    return assemble("cars", classes, train, test)


def _read_split(root: Path, folder: str, file: Path, classes: int) -> LabelledImages:
    records = np.atleast_1d(_read_mat(file, "annotations"))
    try:
        names = [Path(str(name)).name for name in records["fname"]]
        labels = np.asarray([int(label) for label in records["class"]], dtype=np.int64) - 1
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise broken(file, "its annotations lack the fields fname and class", SOURCE) from error
    if not ((labels >= 0) & (labels < classes)).all():
        raise broken(file, f"its classes are not numbers from 1 to {classes}", SOURCE)
    paths = [f"{folder}/{name}" for name in names]
    require_all(root, paths, SOURCE)
    return from_files(root, paths, labels.tolist())


def _read_mat(path: Path, variable: str) -> Any:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError(
            "Stanford Cars has MATLAB files, which scipy reads: install it with pip install 'hive-pretraining[probe]'."
        ) from None
    require(path, SOURCE)
    try:
        return loadmat(str(path), variable_names=[variable], squeeze_me=True)[variable]
    except Exception as error:  # a damaged file raises almost anything
        raise broken(path, f"no MATLAB file with {variable}", SOURCE) from error
