"""Folders of images with a text file beside each."""

from collections.abc import Iterator
from pathlib import Path

from hive.data.source import BadRecord, Columns, Record, Source
from hive.data.sources.image_store import open_store
from hive.data.sources.json_records import PathReader
from hive.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def is_image_folder(folder: Path) -> bool:
    """Whether a folder has images as files."""
    return next(_images(folder), None) is not None


def open_image_folder(folder: Path, columns: Columns) -> Source:
    """The images of a folder and those in it, with KEY.txt beside KEY.jpg; `UserError` where no image has a text."""
    records = []
    for path in sorted(_images(folder)):
        place, text = str(path.relative_to(folder)), path.with_suffix(".txt")
        fault = None if text.is_file() else BadRecord("the image has no text file beside it")
        records.append(Record(place, place, {} if fault else {"text": text.read_text(encoding="utf-8-sig")}, fault))
    if all(record.fault for record in records):
        raise UserError(f"{folder} has images but no texts: put a text KEY.txt beside each image KEY.jpg.")
    return Source(records, len(records), PathReader(open_store(folder), [record.place for record in records]))


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and not path.name.startswith("."))
