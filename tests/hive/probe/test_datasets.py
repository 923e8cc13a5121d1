"""Every reader on a small set in the official layout, and on wrong or partial ones."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from hive.data.images import BadImage, ImageSpec
from hive.errors import UserError
from hive.probe.datasets import DATASETS, open_dataset
from hive.probe.datasets.images import ClassificationSet, LabelledImages
from tests.support.layouts import MADE, cifar_rows, picture, python2_pickle, write

SPEC = ImageSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "square")


def made(name: str, root: Path) -> ClassificationSet:
    MADE[name](root)
    return open_dataset(name, root)


def by_name(images: LabelledImages) -> dict[str, int]:
    return dict(zip(images.names, images.labels.tolist(), strict=True))


def test_every_set_has_a_layout_here() -> None:
    assert MADE.keys() == DATASETS.keys()


@pytest.mark.parametrize(
    ("name", "classes", "train", "validation", "test"),
    [
        ("cifar-10", 10, 45, 5, 10),
        ("cifar-100", 100, 90, 10, 100),
        ("imagenet-1k", 1000, 1800, 200, 1000),
        ("tiny-imagenet", 5, 18, 2, 5),
        ("food-101", 3, 8, 1, 3),
        ("cars", 3, 11, 1, 6),
        ("pets", 37, 67, 7, 37),
        ("caltech-256", 257, 284, 32, 258),  # 256 classes of 1 + 1, and 60 + 2
        ("fashion-mnist", 10, 36, 4, 20),
        ("folder", 2, 14, 2, 4),
    ],
)
def test_sizes(name: str, classes: int, train: int, validation: int, test: int, tmp_path: Path) -> None:
    data = made(name, tmp_path)
    assert len(data.classes) == classes
    assert (len(data.train), len(data.validation), len(data.test)) == (train, validation, test)
    assert not set(data.train.names) & set(data.validation.names)
    assert not (set(data.train.names) | set(data.validation.names)) & set(data.test.names)
    assert set(data.test.labels) <= set(range(classes))


def test_cifar_pixels_are_planes_of_red_green_and_blue(tmp_path: Path) -> None:
    data = made("cifar-10", tmp_path)
    expected = cifar_rows(10, 5).reshape(10, 3, 32, 32)  # test_batch
    for index in range(10):
        np.testing.assert_array_equal(data.test.pixels(index, SPEC).numpy(), expected[index])
    assert data.test.labels.tolist() == list(range(10))
    assert data.classes[3] == "class 3"


def test_labels_follow_the_files(tmp_path: Path) -> None:
    tiny = by_name(made("tiny-imagenet", tmp_path / "tiny").test)
    assert tiny["val/images/val_0.JPEG"] == 4  # wnids.txt is in reverse order there
    assert by_name(made("food-101", tmp_path / "food").test)["images/waffles/2000.jpg"] == 2
    assert by_name(made("cars", tmp_path / "cars").test) == {f"cars_test/{n + 1:05}.jpg": n % 3 for n in range(6)}
    pets = made("pets", tmp_path / "pets")
    assert by_name(pets.test)["images/Abyssinian_1_0.jpg"] == 0
    assert pets.classes[0] == "Abyssinian_1"
    assert by_name(made("imagenet-1k", tmp_path / "imagenet").test)["val/n10000007/ILSVRC2012_val_00000007.JPEG"] == 7
    fashion = made("fashion-mnist", tmp_path / "fashion")
    assert fashion.test.labels.tolist() == [k % 10 for k in range(20)]
    assert fashion.test.pixels(0, SPEC).shape == (3, 32, 32)


def test_the_archives_own_folder_will_do(tmp_path: Path) -> None:
    for name, inner in (("food-101", "food-101"), ("cifar-10", "cifar-10-batches-py")):
        MADE[name](tmp_path)
        assert open_dataset(name, tmp_path / inner).test.names == open_dataset(name, tmp_path).test.names


def test_a_folder_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for kind in ("cats", "dogs"):
            for image in range(count):
                write(tmp_path / split / kind / f"{image}.png", picture(image, "PNG"))
    data = open_dataset("folder", tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 6)
    write(tmp_path / "test" / "cows" / "0.png", picture(0, "PNG"))
    with pytest.raises(UserError, match="cows is a class that"):
        open_dataset("folder", tmp_path)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("cifar-10", "cifar-10-batches-py/data_batch_3"),
        ("cifar-10", "cifar-10-batches-py"),
        ("cifar-100", "cifar-100-python/meta"),
        ("imagenet-1k", "val"),
        ("imagenet-1k", "val/n10000007"),
        ("imagenet-1k", "train/n10000007"),
        ("tiny-imagenet", "tiny-imagenet-200/wnids.txt"),
        ("tiny-imagenet", "tiny-imagenet-200/val/val_annotations.txt"),
        ("tiny-imagenet", "tiny-imagenet-200/val/images/val_3.JPEG"),
        ("tiny-imagenet", "tiny-imagenet-200/train/n00000001"),
        ("food-101", "food-101/meta/test.txt"),
        ("food-101", "food-101/images/waffles/2001.jpg"),
        ("cars", "devkit/cars_train_annos.mat"),
        ("cars", "cars_test_annos_withlabels.mat"),
        ("cars", "cars_train/00002.jpg"),
        ("pets", "annotations/trainval.txt"),
        ("pets", "images"),
        ("pets", "images/Abyssinian_1_0.jpg"),
        ("caltech-256", "256_ObjectCategories/100.thing-100"),
        ("fashion-mnist", "t10k-labels-idx1-ubyte.gz"),
    ],
)
def test_a_partial_set_names_what_is_missing_and_where_it_is(name: str, gone: str, tmp_path: Path) -> None:
    MADE[name](tmp_path)
    place = tmp_path / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(UserError) as error:
        open_dataset(name, tmp_path)
    sentence = str(error.value)
    assert "get " in sentence
    assert "http" in sentence
    missing = "class 100" if name == "caltech-256" else Path(gone).name.removesuffix(".gz")
    if gone != "cifar-10-batches-py":  # then it is its first file that is missing
        assert missing in sentence or "999 class folders" in sentence


@pytest.mark.parametrize(
    ("name", "path", "content", "reason"),
    [
        ("cifar-10", "cifar-10-batches-py/test_batch", b"", "Ran out of input"),
        ("cifar-10", "cifar-10-batches-py/test_batch", python2_pickle([1]), "no dictionary"),
        ("cifar-10", "cifar-10-batches-py/test_batch", python2_pickle({b"data": [1]}), "no uint8 array"),
        (
            "cifar-10",
            "cifar-10-batches-py/test_batch",
            python2_pickle({b"data": cifar_rows(2, 0), b"labels": [0, 10]}),
            "numbers from 0 to 9",
        ),
        ("cifar-10", "cifar-10-batches-py/test_batch", python2_pickle({b"data": cifar_rows(2, 0)}), "no list labels"),
        ("fashion-mnist", "t10k-images-idx3-ubyte.gz", b"no gzip", "Not a gzipped file"),
        ("tiny-imagenet", "tiny-imagenet-200/val/val_annotations.txt", "val_0.JPEG\tn999\n", "no file and class"),
        ("food-101", "food-101/meta/test.txt", "waffles/../../../x\n", "no class and image"),
        ("pets", "annotations/test.txt", "Abyssinian_1_0 38 1 1\n", "class from 1 to 37"),
        ("cars", "devkit/cars_meta.mat", b"nothing", "no MATLAB file"),
    ],
)
def test_a_broken_file_is_named(name: str, path: str, content: bytes | str, reason: str, tmp_path: Path) -> None:
    MADE[name](tmp_path)
    write(tmp_path / path, content)
    with pytest.raises(UserError) as error:
        open_dataset(name, tmp_path)
    assert Path(path).name in str(error.value)
    assert reason in str(error.value)


class Attack:
    def __reduce__(self):
        return print, ("run",)


def test_no_code_of_a_pickle_is_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    MADE["cifar-10"](tmp_path)
    write(tmp_path / "cifar-10-batches-py" / "test_batch", pickle.dumps({b"data": Attack()}))
    with pytest.raises(UserError, match=r"it names builtins.print"):
        open_dataset("cifar-10", tmp_path)
    assert capsys.readouterr().out == ""


def test_cars_without_a_class(tmp_path: Path) -> None:
    MADE["cars"](tmp_path)
    records = np.zeros((1, 2), dtype=[("fname", object)])
    records["fname"] = "00001.jpg"
    savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": records})
    with pytest.raises(UserError, match="lack the fields fname and class"):
        open_dataset("cars", tmp_path)


def test_unsorted_imagenet(tmp_path: Path) -> None:
    MADE["imagenet-1k"](tmp_path)
    write(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", b"\xff\xd8\xff")
    with pytest.raises(UserError, match="not in class folders"):
        open_dataset("imagenet-1k", tmp_path)


def test_no_set_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be one of cifar-10, "):
        open_dataset("cifar", tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        open_dataset("cifar-10", tmp_path / "nowhere")
    with pytest.raises(UserError, match="at least two"):
        open_dataset("folder", tmp_path)


def test_a_damaged_image_is_a_bad_image(tmp_path: Path) -> None:
    data = made("folder", tmp_path)
    (tmp_path / data.test.names[0]).write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    with pytest.raises(BadImage):
        data.test.pixels(0, SPEC)
    (tmp_path / data.test.names[1]).unlink()
    with pytest.raises(BadImage, match="can't be read"):
        data.test.pixels(1, SPEC)


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    data = made("folder", tmp_path)
    before = data.test.fingerprint
    assert open_dataset("folder", tmp_path).test.fingerprint == before
    assert data.train.fingerprint != before
    path = tmp_path / data.test.names[0]
    path.write_bytes(path.read_bytes() + b"\0")
    assert open_dataset("folder", tmp_path).test.fingerprint != before
