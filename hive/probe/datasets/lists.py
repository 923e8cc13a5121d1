"""Sets whose splits are text files: Food-101 and Oxford-IIIT Pets."""

from pathlib import Path

from hive.errors import UserError
from hive.probe.datasets.images import ClassificationSet, LabelledImages, assemble, from_files
from hive.probe.datasets.layout import broken, read_lines, require_all, unpacked

FOOD = "get food-101.tar.gz from https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
PETS = "get images.tar.gz and annotations.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/pets/"
BREEDS = 37


def open_food101(root: Path) -> ClassificationSet:
    """Reads food-101/: images/<class>/<id>.jpg, meta/classes.txt, meta/train.txt and meta/test.txt."""
    root = unpacked(root, "food-101")
    classes = read_lines(root / "meta" / "classes.txt", FOOD)
    label_of = {name: label for label, name in enumerate(classes)}

    def split(name: str) -> LabelledImages:
        file = root / "meta" / f"{name}.txt"
        paths: list[str] = []
        labels: list[int] = []
        for line in read_lines(file, FOOD):
            kind, _, image = line.partition("/")
            if kind not in label_of or not _is_file_name(image):
                raise broken(file, f'the line "{line:.60}" is no class and image', FOOD)
            paths.append(f"images/{kind}/{image}.jpg")
            labels.append(label_of[kind])
        require_all(root, paths, FOOD)
        return from_files(root, paths, labels)

    return assemble("food-101", classes, split("train"), split("test"))


def open_pets(root: Path) -> ClassificationSet:
    """Reads images/<name>.jpg, annotations/trainval.txt and annotations/test.txt with class ids from 1 to 37."""
    names: dict[int, str] = {}

    def split(file_name: str) -> LabelledImages:
        file = root / "annotations" / file_name
        paths: list[str] = []
        labels: list[int] = []
        for line in read_lines(file, PETS):
            if line.startswith("#"):
                continue
            image, *numbers = line.split()
            label = int(numbers[0]) - 1 if numbers and numbers[0].isascii() and numbers[0].isdigit() else -1
            if not 0 <= label < BREEDS or not _is_file_name(image):
                raise broken(file, f'the line "{line:.60}" is no image and class from 1 to {BREEDS}', PETS)
            names.setdefault(label, image.rpartition("_")[0])
            paths.append(f"images/{image}.jpg")
            labels.append(label)
        require_all(root, paths, PETS)
        return from_files(root, paths, labels)

    train, test = split("trainval.txt"), split("test.txt")
    if missing := set(range(BREEDS)) - set(names):
        raise UserError(f"{root / 'annotations' / 'trainval.txt'} has no image of class {min(missing) + 1}: {PETS}.")
    return assemble("pets", [names[label] for label in range(BREEDS)], train, test)


def _is_file_name(name: str) -> bool:
    """Whether `name` is a file name that can't lead out of its folder."""
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name
