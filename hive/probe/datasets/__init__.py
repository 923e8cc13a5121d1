"""Classification sets in their official on-disk layouts."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hive.errors import UserError, choose

if TYPE_CHECKING:
    from hive.probe.datasets.images import ClassificationSet

DATASETS = {
    "cifar-10": "cifar.open_cifar10",
    "cifar-100": "cifar.open_cifar100",
    "imagenet-1k": "folders.open_imagenet",
    "tiny-imagenet": "tiny_imagenet.open_tiny_imagenet",
    "food-101": "lists.open_food101",
    "cars": "cars.open_cars",
    "pets": "lists.open_pets",
    "caltech-256": "folders.open_caltech256",
    "fashion-mnist": "fashion_mnist.open_fashion_mnist",
    "folder": "folders.open_folder",
}
"""By name the module in this folder and its function (root: Path) -> ClassificationSet, imported when it is called: the
modules import torch, for which --help does not wait."""


def open_dataset(name: str, root: Path) -> "ClassificationSet":
    """Returns the named set in the folder `root`. Every record is checked; no image is decoded.

    Raises `UserError` for an unknown name, or a set that is incomplete or damaged.
    """
    module, function = choose("--dataset", name, DATASETS).split(".")
    root = root.expanduser()
    if not root.is_dir():
        raise UserError(f"--data-root {root} is no folder: give the one that {name} was unpacked in.")
    return getattr(import_module(f"{__name__}.{module}"), function)(root)
