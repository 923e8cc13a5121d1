"""Folders of images with their texts: Hugging Face's metadata files, or a text file beside each image."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hive.data.find_files import is_leftover
from hive.data.images import EXTENSIONS
from hive.data.source import BadRecord, Columns, OtherRecord, Record, Source
from hive.data.sources.image_store import FolderStore
from hive.data.sources.json_records import read_json
from hive.data.sources.path_records import Entry, PathReader, find_images, image_path, open_entries
from hive.data.sources.table import read_table
from hive.errors import UserError, first_line

TEXTS = ("txt", "caption")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_NAME = ("file_name", "file_names")  # Hugging Face's names of the column with the image
_PACKED = ("tar", "parquet")
_RECORDS = ("json", "jsonl", "csv", "tsv")

Tree = Mapping[str, Mapping[str, None]]
"""The names of the files in each folder, by the folder's path below the root; in order."""


def is_image_folder(folder: Path) -> bool:
    """Whether a folder has images as files: a metadata file, or an image with its text, or images and no archives.

    A data set in Parquet may have a few pictures beside it, and img2dataset leaves Parquet files beside its images.
    """
    kinds: set[str] = set()
    for _, names in _walk(str(folder)):
        kinds.update(map(_kind, names))
        if any(name in names for name in METADATA) or any(text for _, text in _pairs(names)):
            return True
    return not kinds.isdisjoint(EXTENSIONS) and kinds.isdisjoint(_PACKED)


def open_image_folder(folder: Path, columns: Columns, is_read: Callable[[str], bool] = lambda path: True) -> Source:
    """The images of a folder and those in it, with the texts of its metadata files; of files beside them without such.

    `is_read` says of each folder, by its path below this one, whether its images are read.

    Raises `UserError` where no image has a text.
    """
    root = str(folder.resolve())
    tree = {path: names for path, names in _walk(root) if is_read(path)}
    metadata = {path: next((name for name in METADATA if name in names), None) for path, names in tree.items()}
    files = [os.path.join(path, name) for path, name in metadata.items() if name is not None]
    if files:
        return open_entries(
            lambda: _listed(root, files, tree, columns, is_read),
            FolderStore(root),
            columns,
            lambda image: f"{folder}: write paths that start from the folder of the metadata file",
            FILE_NAME,
        )
    if not any(text for names in tree.values() for _, text in _pairs(names)):
        lists = [os.path.join(folder, path, n) for path, names in tree.items() for n in names if _kind(n) in _RECORDS]
        cure = (
            f"give --data {lists[0]} if that has them"
            if lists
            else "put a text KEY.txt beside each image KEY.jpg, or a metadata.jsonl with lines such as "
            '{"file_name": "0.jpg", "text": "a cat"}; names of folders are classes, not captions'
        )
        raise UserError(f"{folder} has images but no texts: {cure}.")
    return _open_beside(root, tree)


def _walk(root: str) -> Iterator[tuple[str, dict[str, None]]]:
    """(path below the root, names of its files) of each folder, in order."""
    seen: set[str] = set()
    for path, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(path)) in seen:  # two links to one folder, or one to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_leftover(name))
        below = os.path.relpath(path, root)
        yield "" if below == "." else below, dict.fromkeys(sorted(name for name in names if not is_leftover(name)))


def _kind(name: str) -> str:
    return os.path.splitext(name)[1][1:].lower()


def _pairs(names: Mapping[str, None]) -> Iterator[tuple[str, str | None]]:
    """(image, its text file) of each image in a folder: KEY.txt of KEY.jpg, or KEY.jpg.txt."""
    for image in names:
        if _kind(image) in EXTENSIONS:
            candidates = (f"{key}.{kind}" for key in (os.path.splitext(image)[0], image) for kind in TEXTS)
            yield image, next((name for name in candidates if name in names), None)


def _open_beside(root: str, tree: Tree) -> Source:
    """The images with the text files beside them, and the text files without an image. Texts are read with the records.

    Raises `UserError` for a link that leads out of the folder.
    """
    store = FolderStore(root)
    found: list[tuple[str, str]] = []  # (image, text) below the root, one of which may be ""
    for folder, names in tree.items():
        pairs = dict(_pairs(names))
        keys = {key for image in pairs for key in (image, os.path.splitext(image)[0])}
        lone = [name for name in names if _kind(name) in TEXTS and os.path.splitext(name)[0] not in keys]
        for image, text in (*pairs.items(), *(("", text) for text in lone)):
            found.append((image and os.path.join(folder, image), os.path.join(folder, text) if text else ""))
    for name in (name for pair in found for name in pair if name):
        try:
            store.find(name)
        except BadRecord:
            continue  # a link to nothing: the record says so
        except UserError as error:
            raise UserError(f"{root}: {error}.") from None

    def records() -> Iterator[Record]:
        for image, text in found:
            try:
                yield Record(image or text, image or None, {"text": _read_text(store, image, text)})
            except BadRecord as fault:
                yield Record(image or text, image or None, {}, fault)

    return Source(records(), len(found), PathReader(FolderStore(root), [image for image, _ in found]))


def _read_text(store: FolderStore, image: str, text: str) -> str:
    if not image:
        raise BadRecord("the text has no image beside it")
    if not text:
        raise BadRecord("the image has no text file beside it")
    store.find(image)
    try:
        caption = store.read(text).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRecord(f"{text} is not UTF-8 text") from None
    except OSError as error:
        raise BadRecord(f"{text} can't be read ({error.strerror or error})") from None
    if not caption.strip():
        raise BadRecord(f"{text} is empty")
    return caption


def _listed(
    root: str, metadata: list[str], tree: Tree, columns: Columns, is_read: Callable[[str], bool]
) -> Iterator[Entry]:
    """The records of metadata files, whose paths start at the file's folder; then the images that none names.

    Records of images in folders that are not read are left out.
    """
    named = set()
    for name in metadata:
        folder = os.path.dirname(name)
        for entry in _read_metadata(Path(root, name), name, columns):
            try:
                image = image_path(find_images(entry.fields, columns, FILE_NAME))
            except BadRecord:
                image = ""
            place = os.path.normpath(os.path.join(folder, image))
            named.add(place)
            if is_read(os.path.dirname(place)):
                yield entry._replace(folder=folder)
    for folder, names in tree.items():
        for image, _ in _pairs(names):
            place = os.path.join(folder, image)
            if place not in named:
                yield Entry(place, {}, OtherRecord("no metadata file names the image"))


def _read_metadata(path: Path, name: str, columns: Columns) -> Iterator[Entry]:
    if path.suffix == ".jsonl":
        yield from read_json(path, name)
    elif path.suffix == ".csv":
        yield from read_table(path, name, columns)
    else:
        for row, fields in enumerate(_read_parquet(path)):
            yield Entry(f"{name}:{row}", fields)


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa  # a GPU machine may lack it (docs/gpu.md)
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read as Parquet ({first_line(error)}): write or fetch it again.") from None
