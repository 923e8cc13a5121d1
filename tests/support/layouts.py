"""Small sets in the exact official layouts."""

import gzip
import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from scipy.io import savemat

PER_CLASS = 4
FASHION_CLASSES = 10
Maker = Callable[[Path], None]
MADE: dict[str, Maker] = {}  # name -> function that makes the set below a folder


def maker(name: str) -> Callable[[Maker], Maker]:
    def register(function: Maker) -> Maker:
        MADE[name] = function
        return function

    return register


def picture(seed: int, format_: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_)
    return buffer.getvalue()


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


class Python2Pickler(pickle._Pickler):
    """Writes as the sets' authors did: Python 2's protocol 2, whose strings are bytes, and numpy 1's module names."""

    dispatch: ClassVar[dict[type, Any]] = pickle._Pickler.dispatch.copy()
    write: Callable[[bytes], object]  # the base class has both, and its type stubs have neither
    memoize: Callable[[object], None]

    def save_binstring(self, data: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_binstring

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)


Python2Pickler.dispatch[type] = Python2Pickler.save_global
Python2Pickler.dispatch[type(np.zeros)] = Python2Pickler.save_global


def python2_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def cifar_rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


@maker("cifar-10")
def cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    names = [f"class {number}".encode() for number in range(10)]
    write(folder / "batches.meta", python2_pickle({b"label_names": names, b"num_vis": 3072}))
    for number, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        content = {b"data": cifar_rows(10, number), b"labels": list(range(10)), b"batch_label": b"x"}
        write(folder / name, python2_pickle(content))


@maker("cifar-100")
def cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    names = [f"class {number}".encode() for number in range(100)]
    write(folder / "meta", python2_pickle({b"fine_label_names": names, b"coarse_label_names": []}))
    for number, name in enumerate(["train", "test"]):
        content = {b"data": cifar_rows(100, number), b"fine_labels": list(range(100)), b"coarse_labels": [0] * 100}
        write(folder / name, python2_pickle(content))


@maker("fashion-mnist")
def fashion_mnist(root: Path) -> None:
    for prefix, count in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % FASHION_CLASSES
        images = struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes()
        write(root / f"{prefix}-images-idx3-ubyte.gz", gzip.compress(images))
        write(
            root / f"{prefix}-labels-idx1-ubyte.gz", gzip.compress(struct.pack(">II", 0x801, count) + labels.tobytes())
        )


@maker("imagenet-1k")
def imagenet(root: Path) -> None:
    for label in range(1000):
        wnid = f"n{10_000_000 + label}"
        write(root / "train" / wnid / f"{wnid}_1.JPEG", b"\xff\xd8\xff")  # never decoded here
        write(root / "train" / wnid / f"{wnid}_2.JPEG", b"\xff\xd8\xff")
        write(root / "val" / wnid / f"ILSVRC2012_val_{label:08}.JPEG", b"\xff\xd8\xff")


@maker("tiny-imagenet")
def tiny_imagenet(root: Path) -> None:
    root = root / "tiny-imagenet-200"
    wnids = [f"n0{number:07}" for number in range(5)]
    write(root / "wnids.txt", "\n".join(reversed(wnids)))  # the file's order counts, not the alphabet's
    lines = []
    for number, wnid in enumerate(wnids):
        write(root / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
        for image in range(PER_CLASS):
            write(root / "train" / wnid / "images" / f"{wnid}_{image}.JPEG", picture(image))
        write(root / "val" / "images" / f"val_{number}.JPEG", picture(number))
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    write(root / "val" / "val_annotations.txt", "".join(lines))


@maker("food-101")
def food101(root: Path) -> None:
    root = root / "food-101"
    classes = ["apple_pie", "baby_back_ribs", "waffles"]
    write(root / "meta" / "classes.txt", "\n".join(classes) + "\n")
    splits: dict[str, list[str]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        for image in range(PER_CLASS):
            write(root / "images" / name / f"{1000 * label + image}.jpg", picture(image))
            splits["test" if image == 0 else "train"].append(f"{name}/{1000 * label + image}")
    for split, lines in splits.items():
        write(root / "meta" / f"{split}.txt", "\n".join(lines) + "\n")


@maker("cars")
def cars(root: Path) -> None:
    kinds = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo 2012"], dtype=object)
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": kinds})
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for folder, file, count in (
        ("cars_train", "devkit/cars_train_annos.mat", 12),
        ("cars_test", "cars_test_annos_withlabels.mat", 6),
    ):
        records = np.zeros((1, count), dtype=fields)
        for number in range(count):
            name = f"{number + 1:05}.jpg"
            records[0, number] = (*np.array([1, 2, 9, 9], dtype=np.uint8), np.uint8(number % 3 + 1), name)
            write(root / folder / name, picture(number))
        savemat(root / file, {"annotations": records})


@maker("pets")
def pets(root: Path) -> None:
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for label in range(1, 38):
        name = f"{'Abyssinian' if label == 1 else 'yorkshire_terrier'}_{label}"
        for image in range(3):
            write(root / "images" / f"{name}_{image}.jpg", picture(image))
            lines["test" if image == 0 else "trainval"].append(f"{name}_{image} {label} 1 {label}")
    for split, content in lines.items():
        write(root / "annotations" / f"{split}.txt", "\n".join(content) + "\n")
    write(root / "annotations" / "list.txt", "#Image CLASS-ID SPECIES BREED ID\n")


@maker("caltech-256")
def caltech256(root: Path) -> None:
    for number in range(1, 258):
        folder = root / "256_ObjectCategories" / f"{number:03}.thing-{number}"
        for image in range(62 if number == 257 else 2):
            write(folder / f"{number:03}_{image:04}.jpg", b"\xff\xd8\xff")
    write(root / "256_ObjectCategories" / "198.thing-198" / "RENAME2", "a stray script")
    write(root / "256_ObjectCategories" / "056.thing-56" / "greg" / "1.jpg", b"a stray folder")


@maker("folder")
def folder(root: Path) -> None:
    for label, name in enumerate(["cats", "dogs"]):
        for image in range(10):
            write(root / name / f"{image}.png", picture(100 * label + image, "PNG"))
