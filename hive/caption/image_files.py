"""Finds and reads the images that a command line names."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from hive.data.images import EXTENSIONS, FORMATS, BadImage, ImageSpec, load
from hive.errors import UserError


def find_images(names: Sequence[str]) -> list[Path]:
    """The files that names mean, each once: a file as it is, of folders and globs all images inside, sorted.

    Raises `UserError` for a name that means no image.
    """
    return list(dict.fromkeys(path for name in names for path in _find(name)))


def read_image(path: Path, spec: ImageSpec, max_megapixels: float) -> torch.Tensor:
    """The image as a batch of training holds it, uint8 [3, H, W]; raises `BadImage` where it can't be used."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(f"can't be read ({error.strerror})") from None
    return load(data, spec, max_megapixels)


def _find(name: str) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        images = sorted(_images_in(path))
        if not images:
            raise UserError(f"IMAGE {name} is a folder without images ({FORMATS}): give another one.")
        return images
    if path.exists():
        raise UserError(f"IMAGE {name} is neither a file nor a folder: give an image.")
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
    if not matches:
        kind = "matches no file" if glob.has_magic(name) else "does not exist"
        raise UserError(f"IMAGE {name} {kind}: give an image file, a folder of images, or a glob in quotes.")
    return [image for match in matches for image in _find(match)]


def _images_in(folder: Path) -> Iterator[Path]:
    """The files under a folder whose endings are those of images, hidden ones left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower()[1:] in EXTENSIONS:
                yield Path(place) / name
