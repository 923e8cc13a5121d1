"""Sets with a folder of images for each class: ImageNet-1K, Caltech-256, and your own."""

from collections.abc import Sequence
from pathlib import Path

from hive.errors import UserError
from hive.probe.datasets.images import (
    ClassificationSet,
    LabelledImages,
    assemble,
    from_files,
    split_by_class,
)
from hive.probe.datasets.layout import broken, folders_in, images_by_class, images_in, require, unpacked

IMAGENET = "get ILSVRC2012 from https://image-net.org and sort the images of train and val into a folder a WordNet id"
CALTECH = "get 256_ObjectCategories.tar from https://data.caltech.edu/records/nyy15-4j048"
FOLDER = "make a folder of images for each class"
CALTECH_TRAINING = 60  # images a class, as the set's authors train on (Griffin, Holub and Perona 2007)


def open_imagenet(root: Path) -> ClassificationSet:
    """Reads train/<wnid>/*.JPEG and val/<wnid>/*.JPEG; val is the test split, as is usual."""
    classes = folders_in(root / "train", IMAGENET)
    if len(classes) != 1000:
        raise broken(root / "train", f"it has {len(classes)} class folders, but ImageNet-1K has 1,000", IMAGENET)
    train = _read_classes(root, "train", classes, IMAGENET)
    require(root / "val", IMAGENET)
    if images_in(root / "val"):
        raise broken(root / "val", "its images are not in class folders", IMAGENET)
    test = _read_classes(root, "val", classes, IMAGENET)
    return assemble("imagenet-1k", classes, train, test, test_is="the official validation split, as in the paper")


def open_caltech256(root: Path) -> ClassificationSet:
    """Reads 256_ObjectCategories/NNN.name/*.jpg: all 257 folders, with the clutter class."""
    folder = unpacked(root, "256_ObjectCategories")
    classes = folders_in(folder, CALTECH)
    numbers = [name.split(".")[0] for name in classes]
    expected = [f"{number:03}" for number in range(1, 258)]
    for number in expected:
        if number not in numbers:
            raise UserError(f"{folder} lacks the folder of class {number}: {CALTECH}.")
    if numbers != expected:
        raise broken(folder, "it has folders that are not classes", CALTECH)
    images = _read_classes(folder, ".", classes, CALTECH)
    train, test = split_by_class(images, lambda count: CALTECH_TRAINING if count > CALTECH_TRAINING else count - 1)
    return assemble(
        "caltech-256",
        classes,
        train,
        test,
        test_is=f"all but {CALTECH_TRAINING} a class, chosen by hash; none is official",
    )


def open_folder(root: Path) -> ClassificationSet:
    """Reads train/<class> with test/<class>, val/<class> or both; or <class> alone, and tests on a fifth of each."""
    if not root.is_dir():
        raise UserError(f"--data-root {root} is no folder: {FOLDER}.")
    top = folders_in(root, FOLDER)
    if "train" in top and ("test" in top or "val" in top):
        classes = folders_in(root / "train", FOLDER)
        splits = {name: _read_classes(root, name, classes, FOLDER) for name in ("train", "val", "test") if name in top}
        for name in splits:
            if unknown := set(folders_in(root / name, FOLDER)) - set(classes):
                raise UserError(f"{root / name / min(unknown)} is a class that {root / 'train'} lacks: add it there.")
        if "test" in splits:
            return assemble("folder", classes, splits["train"], splits["test"], splits.get("val"), "the folder test")
        return assemble("folder", classes, splits["train"], splits["val"], test_is="the folder val")
    if len(top) < 2:
        raise UserError(f"--data-root {root} has {len(top)} class folders, but it must have at least two: {FOLDER}.")
    train, test = split_by_class(_read_classes(root, ".", top, FOLDER), lambda count: count - max(1, round(count / 5)))
    return assemble("folder", top, train, test, test_is="a fifth of each class, chosen by hash")


def _read_classes(root: Path, folder: str, classes: Sequence[str], source: str) -> LabelledImages:
    """Returns the images of every class; raises `UserError` where a class folder is empty or missing."""
    paths, labels = images_by_class(root, folder, classes)
    if empty := set(range(len(classes))) - set(labels):
        place = root / folder / classes[min(empty)]
        raise UserError(f"{place} has no JPEG, PNG or WebP images: {source}.")
    return from_files(root, paths, labels)
