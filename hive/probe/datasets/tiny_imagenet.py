"""Tiny-ImageNet: train/<wnid>/images, and val/images with its labels in val_annotations.txt."""

from pathlib import Path

from hive.errors import UserError
from hive.probe.datasets.images import ClassificationSet, assemble, from_files
from hive.probe.datasets.layout import broken, images_by_class, read_lines, require, require_all, unpacked

SOURCE = "get tiny-imagenet-200.zip from http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def open_tiny_imagenet(root: Path) -> ClassificationSet:
    """Reads tiny-imagenet-200/. The labels of its test images are not public, so val is the test split."""
    root = unpacked(root, "tiny-imagenet-200")
    classes = read_lines(root / "wnids.txt", SOURCE)
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    require(root / "train", SOURCE)
    paths, labels = images_by_class(root, "train", classes, "images")
    if empty := set(label_of.values()) - set(labels):
        raise UserError(f"{root / 'train' / classes[min(empty)] / 'images'} has no images: {SOURCE}.")
    annotations = root / "val" / "val_annotations.txt"
    test_paths: list[str] = []
    test_labels: list[int] = []
    for line in read_lines(annotations, SOURCE):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in label_of:
            raise broken(annotations, f'the line "{line:.60}" is no file and class', SOURCE)
        test_paths.append(str(Path("val", "images", Path(fields[0]).name)))
        test_labels.append(label_of[fields[1]])
    require_all(root, test_paths, SOURCE)
    return assemble(
        "tiny-imagenet",
        classes,
        from_files(root, paths, labels),
        from_files(root, test_paths, test_labels),
        test_is="the official validation split, as the test split has no public labels",
    )
