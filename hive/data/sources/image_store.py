"""Where the images are that records name by path."""

import os
import re
from pathlib import Path
from typing import Any, NoReturn, Protocol

from hive.data.source import BadRecord
from hive.errors import UserError

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|data:")


class ImageStore(Protocol):
    """Images by name. Picklable, and opens nothing before the first call."""

    def find(self, image: str) -> str:
        """The name to read an image by, found by its path in a record. Raises `BadRecord` where it isn't there."""

    def read(self, name: str) -> bytes:
        """The encoded image; OSError where it can't be read."""


def open_store(root: Path) -> ImageStore:
    """The images below a folder. Raises `UserError` where `root` is none."""
    path = root.expanduser().resolve()
    if not path.is_dir():
        raise UserError(f"--image-root {root} is not a folder: give the folder that the image paths start from.")
    return FolderStore(str(path))


class FolderStore:
    """The files below a folder, after links are followed. A folder is listed once, instead of asking for each file."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._listed: dict[str, dict[str, bool] | None] = {}  # folder -> name -> is a link

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_listed": {}}  # who only reads needs no list

    def find(self, image: str) -> str:
        """The path. Raises `UserError` where it leaves the root, `BadRecord` where it is no file below it."""
        if _URL.match(image):
            raise BadRecord(f"its image is a URL, and nothing is fetched while training: {image:.200}")
        path = self._path(image)
        if "\0" in image or not self._inside(path):
            self._refuse(image)
        folder, name = os.path.split(path)
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        files = self._listed[folder]
        if files is None:
            self._refuse(image)
        if name not in files:
            raise BadRecord(f"its image is missing: {image:.200}")
        if files[name]:  # a link
            if not self._inside(target := os.path.realpath(path)):
                self._refuse(image)
            if not os.path.isfile(target):
                raise BadRecord(f"its image is a link to nothing: {image:.200}")
        return image

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        with open(self._path(name), "rb") as file:
            return file.read()

    def _path(self, image: str) -> str:
        """The path of an image, `..` resolved by its text alone, so that the path checked is the path read."""
        return os.path.normpath(os.path.join(self.root, image))

    def _inside(self, path: str) -> bool:
        return path.startswith(self.root.rstrip(os.sep) + os.sep)

    def _refuse(self, image: str) -> NoReturn:
        raise UserError(
            f"The image {image!r:.200} leaves the image root {self.root}: only files below it are read; move the image "
            "there, or set --image-root."
        )

    def _list(self, folder: str) -> dict[str, bool] | None:
        """name -> is a link, for the files of a folder; None where the folder, links followed, is outside the root."""
        real = os.path.realpath(folder)
        if real != self.root and not self._inside(real):
            return None
        try:
            with os.scandir(folder) as entries:
                return {
                    entry.name: entry.is_symlink()
                    for entry in entries
                    if entry.is_symlink() or entry.is_file(follow_symlinks=False)
                }
        except OSError:
            return {}
