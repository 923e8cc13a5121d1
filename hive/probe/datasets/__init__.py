"""Classification sets in their official on-disk layouts."""

from collections.abc import Callable
from pathlib import Path

from hive.errors import UserError, choose
from hive.probe.datasets.cars import open_cars
from hive.probe.datasets.cifar import open_cifar10, open_cifar100
from hive.probe.datasets.fashion_mnist import open_fashion_mnist
from hive.probe.datasets.folders import open_caltech256, open_folder, open_imagenet
from hive.probe.datasets.images import ClassificationSet
from hive.probe.datasets.lists import open_food101, open_pets
from hive.probe.datasets.tiny_imagenet import open_tiny_imagenet

DATASETS: dict[str, Callable[[Path], ClassificationSet]] = {
    "cifar-10": open_cifar10,
    "cifar-100": open_cifar100,
    "imagenet-1k": open_imagenet,
    "tiny-imagenet": open_tiny_imagenet,
    "food-101": open_food101,
    "cars": open_cars,
    "pets": open_pets,
    "caltech-256": open_caltech256,
    "fashion-mnist": open_fashion_mnist,
    "folder": open_folder,
}


def open_dataset(name: str, root: Path) -> ClassificationSet:
    """Returns the named set in the folder `root`. Every record is checked; no image is decoded.

    Raises `UserError` for an unknown name, or a set that is incomplete or damaged.
    """
    open_set = choose("--dataset", name, DATASETS)
    root = root.expanduser()
    if not root.is_dir():
        raise UserError(f"--data-root {root} is no folder: give the one that {name} was unpacked in.")
    return open_set(root)
