"""Finds the files of a layout; raises `UserError`, which names the first missing one. All readers use it."""

import os
from collections.abc import Sequence
from pathlib import Path

from hive.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def require(path: Path, source: str) -> Path:
    """Returns `path`; raises `UserError` where it is missing. `source` tells the user where to get the set."""
    if not path.exists():
        raise UserError(f"{path} is missing: {source}, unpack it, and give that folder as --data-root.")
    return path


def unpacked(root: Path, name: str) -> Path:
    """Returns the folder that the archive unpacks to: `name` in `root`, or `root` where that is missing."""
    return root / name if (root / name).is_dir() else root


def broken(path: Path, reason: str, source: str) -> UserError:
    """Returns the error for a file or folder with unexpected content."""
    return UserError(f"{path} can't be used ({reason}): {source}.")


def read_lines(path: Path, source: str) -> list[str]:
    """Returns the lines of a text file that are not empty, stripped."""
    try:
        lines = require(path, source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise broken(path, str(error), source) from error
    return [line.strip() for line in lines if line.strip()]


def folders_in(folder: Path, source: str) -> list[str]:
    """Names of the folders in a folder, sorted."""
    require(folder, source)
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise broken(folder, error.strerror or str(error), source) from error


def images_in(folder: Path) -> list[str]:
    """Names of the image files in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_ENDINGS) and not entry.name.startswith(".") and entry.is_file()
        )


def images_by_class(root: Path, folder: str, classes: Sequence[str], inner: str = "") -> tuple[list[str], list[int]]:
    """Returns (paths below `root`, labels) of the images in root/folder/<class>/inner, class by class.

    A class without a folder has no images.
    """
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        place = Path(folder, name, inner)
        if (root / place).is_dir():
            images = [str(place / image) for image in images_in(root / place)]
            paths += images
            labels += [label] * len(images)
    return paths, labels


def require_all(root: Path, paths: Sequence[str], source: str) -> None:
    """Raises `UserError` where one of `paths`, below `root`, is missing."""
    # a set has up to a million images: listing each folder once is faster than asking for each file
    listed: dict[str, set[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(require(root / folder, source)))
        if name not in listed[folder]:
            require(root / path, source)
