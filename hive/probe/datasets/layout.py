"""What the readers share: finding the files of a layout, or one sentence that names the first missing one."""

import os
from collections.abc import Sequence
from pathlib import Path

from hive.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def require(path: Path, source: str) -> Path:
    """The path, if it is there; `source` says where the set comes from."""
    if not path.exists():
        raise UserError(f"{path} is missing: {source}, unpack it, and give that folder as --data-root.")
    return path


def unpacked(root: Path, name: str) -> Path:
    """The archive's own folder: inside --data-root, or --data-root itself."""
    return root / name if (root / name).is_dir() else root


def broken(path: Path, reason: str, source: str) -> UserError:
    """The error for a file that is there and not what it should be."""
    return UserError(f"{path} can't be used ({reason}): {source}.")


def read_lines(path: Path, source: str) -> list[str]:
    """The lines of a text file that are not empty."""
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


def class_folders(root: Path, folder: str, classes: Sequence[str], inner: str = "") -> tuple[list[str], list[int]]:
    """(paths below `root`, labels) of the images in root/folder/<class>/inner; classes without a folder have none."""
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        place = Path(folder, name, inner)
        if (root / place).is_dir():
            found = [str(place / image) for image in images_in(root / place)]
            paths += found
            labels += [label] * len(found)
    return paths, labels


def require_all(root: Path, paths: Sequence[str], source: str) -> None:
    """Refuses a list of images of which one is not there; a folder's names are read once, not one file at a time."""
    there: dict[str, set[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in there:
            there[folder] = set(os.listdir(require(root / folder, source)))
        if name not in there[folder]:
            require(root / path, source)
