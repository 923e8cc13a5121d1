"""Where the images are that records name by path: a folder, or an LMDB whose keys are the paths."""

import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from unicodedata import normalize

from hive.data.source import BadRecord
from hive.errors import UserError, first_line
from hive.files import has_surrogate

if TYPE_CHECKING:
    import lmdb

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://|data:")
_LMDB_FILE = "data.mdb"


class MissingImage(BadRecord):
    """A record whose image is not in the store."""


class ImageStore(Protocol):
    """Images by name. Picklable, and opens nothing before the first call."""

    def find(self, image: str) -> str:
        """The name to read an image by, found by its path in a record.

        Raises `MissingImage` where the image isn't there, `BadRecord` for what is no path, and `UserError` for a path
        that leaves the store.
        """

    def read(self, name: str) -> bytes:
        """The encoded image; OSError where it can't be read."""

    def suggest(self, image: str) -> str:
        """Where images are, and what to do, if hardly any of those that records name is found; `image` is one."""


def open_store(root: Path) -> ImageStore:
    """The images below a folder, or in an LMDB: its folder, its file, or the data.mdb in its folder.

    Raises `UserError` where `root` is neither.
    """
    path = root.expanduser().resolve()
    for file in (path, path / _LMDB_FILE):
        if file.is_file():
            return LmdbStore(str(file))
    if path.is_dir():
        return FolderStore(str(path))
    raise UserError(
        f"--image-root {root} is neither a folder nor an LMDB: give the folder that the image paths start from, or the "
        "LMDB whose keys they are."
    )


class FolderStore:
    """The files below a folder, after links are followed. A folder is listed once, instead of asking for each file."""

    def __init__(self, root: str) -> None:
        """`root` is absolute and without links."""
        self.root = root
        self._listed: dict[str, dict[str, bool] | None] = {}  # folder -> name -> is a link
        self._spelled: dict[str, dict[str, str]] = {}  # folder -> name in NFC -> name on disk

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_listed": {}, "_spelled": {}}  # who only reads needs no list

    def find(self, image: str) -> str:
        """The file's path below the root, as it is spelled on disk."""
        path = image.removeprefix("file://")
        if _URL.match(path):
            raise BadRecord(f"its image is a URL, and nothing is fetched while training: {image:.200}")
        if "\0" in path or has_surrogate(path):
            raise BadRecord(f"its image is no path: {image!r:.200}")
        for spelling in _spellings(path):
            if (name := self._locate(spelling)) is not None:
                return name
        raise MissingImage(f"its image is missing: {image:.200}")

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        with open(os.path.join(self.root, name), "rb") as file:
            return file.read()

    def suggest(self, image: str) -> str:
        """Looks for the image in folders above the root and in it, and for the end of its path in the root."""
        path = _spellings(image)[-1].lstrip("/")
        root = Path(self.root)
        inside = sorted(entry for entry in root.iterdir() if entry.is_dir())
        start = next((folder for folder in (*root.parents, *inside) if (folder / path).is_file()), None)
        if start is not None:
            return f"{path} is below {start}, so give --image-root {start}"
        parts = path.split("/")
        for skipped in range(1, len(parts)):
            if root.joinpath(*parts[skipped:]).is_file():
                front, rest = "/".join(parts[:skipped]), "/".join(parts[skipped:])
                return f"{root} has {rest} without {front} in front, so take that out of the paths, or add the folder"
        return "set --image-root to the folder that the paths start from"

    def _locate(self, image: str) -> str | None:
        """The file's path below the root; None where there is none. `..` is resolved by the path's text alone."""
        path = os.path.normpath(os.path.join(self.root, image))
        if path == self.root:
            return None
        if not self._inside(path):
            self._refuse(image)
        if not self._has(path, image):
            if image.isascii() or (respelled := self._respell(path)) is None or not self._has(respelled, image):
                return None
            path = respelled
        return path[len(self.root.rstrip(os.sep)) + 1 :]

    def _has(self, path: str, image: str) -> bool:
        """Whether there is such a file. Raises `UserError` where a link on the way leads out of the root."""
        folder, name = os.path.split(path)
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        files = self._listed[folder]
        if files is None:
            self._refuse(image)
        if files.get(name):  # a link
            target = os.path.realpath(path)
            if not os.path.isfile(target):
                return False  # a link to nothing, wherever that was
            if not self._inside(target):
                self._refuse(image)
            return True
        return name in files

    def _list(self, folder: str) -> dict[str, bool] | None:
        """name -> is a link, of the files of a folder; None where the folder, links followed, is outside the root."""
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

    def _respell(self, path: str) -> str | None:
        """The path with each name as it is on disk, where they differ in Unicode's normal form; None without such."""
        folder = self.root
        for part in path[len(self.root) :].strip(os.sep).split(os.sep):
            if folder not in self._spelled:
                try:
                    self._spelled[folder] = {normalize("NFC", name): name for name in os.listdir(folder)}
                except OSError:
                    self._spelled[folder] = {}
            name = self._spelled[folder].get(normalize("NFC", part))
            if name is None:
                return None
            folder = os.path.join(folder, name)
        return folder

    def _inside(self, path: str) -> bool:
        return path.startswith(self.root.rstrip(os.sep) + os.sep)

    def _refuse(self, image: str) -> NoReturn:
        raise UserError(
            f"the image {image!r:.200} leaves the image root {self.root}, but only files below it are read: set "
            "--image-root to a folder above all images, or copy what links lead to into it (cp -rL)"
        )


class LmdbStore:
    """The values of an LMDB, by keys that are paths as records have them."""

    def __init__(self, path: str) -> None:
        """Opens the file of an LMDB once, to see that it is one; `UserError` where it isn't."""
        self.path = path
        try:
            with _environment(path, os.getpid()).begin() as transaction:
                self._first = next(iter(transaction.cursor().iternext(values=False)), b"")
        except OSError as error:
            raise UserError(
                f"--image-root {path} can't be read as an LMDB ({error}): write or copy it again."
            ) from None

    def find(self, image: str) -> str:
        """The key, which may differ from the path in Unicode's normal form, in slashes and in "./"."""
        if has_surrogate(image):
            raise BadRecord(f"its image is no path: {image!r:.200}")
        environment = _environment(self.path, os.getpid())
        with environment.begin(buffers=True) as transaction:
            for spelling in _spellings(image):
                for key in dict.fromkeys((spelling, os.path.normpath(spelling))):
                    for name in (key,) if key.isascii() else (key, normalize("NFC", key), normalize("NFD", key)):
                        data = name.encode()
                        if 0 < len(data) <= environment.max_key_size() and transaction.get(data) is not None:
                            return name
        raise MissingImage(f"its image is no key of the LMDB: {image:.200}")

    def read(self, name: str) -> bytes:
        """The value of a key."""
        import lmdb

        try:
            with _environment(self.path, os.getpid()).begin() as transaction:
                data = transaction.get(name.encode())
        except lmdb.Error as error:
            raise OSError(first_line(error)) from None
        if data is None:
            raise OSError("the LMDB lacks it now: it was changed while it was in use")
        return data

    def suggest(self, image: str) -> str:
        """Shows what a key looks like."""
        return f"its first key is {self._first!r:.100}, so give the LMDB whose keys are the paths in the records"


def _spellings(image: str) -> tuple[str, ...]:
    """The path as a record has it, and with slashes where it was written on Windows."""
    slashes = image.strip().replace("\\", "/")
    return (image,) if slashes == image else (image, slashes)


@functools.cache
def _environment(path: str, process: int) -> "lmdb.Environment":
    """The LMDB, opened once in a process, as it must be; a forked process opens it for itself. OSError if it can't."""
    import lmdb  # few have an LMDB

    assert process == os.getpid()
    try:
        # Without a lock it can be read from a folder that can't be written, and by any number of processes.
        return lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise OSError(first_line(error)) from None
