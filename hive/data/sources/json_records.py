"""LLaVA's JSON: a list of records."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive.data.source import IMAGE_FIELDS, BadRecord, Columns, Record, Source, field, first_field
from hive.data.sources.image_store import ImageStore
from hive.errors import UserError


@dataclass(frozen=True)
class PathReader:
    """Reads images by their names in a store."""

    images: ImageStore
    names: list[str]

    def __call__(self, row: int) -> bytes:
        return self.images.read(self.names[row])


def open_json(files: Sequence[Path], images: ImageStore, columns: Columns) -> Source:
    """The records of JSON files, in order. Raises `UserError` for a file that is no list of records."""
    records = [
        _record(f"{file.name} record {number}", record, images, columns)
        for file in files
        for number, record in enumerate(load_records(file))
    ]
    return Source(records, len(records), PathReader(images, [record.image or "" for record in records]))


def _record(place: str, fields: object, images: ImageStore, columns: Columns) -> Record:
    if not isinstance(fields, dict):
        return Record(place, None, {}, BadRecord("it is no object with an image and a text"))
    if "id" in fields:
        place += f" (id {fields['id']!s:.80})"
    image = field(fields, columns.image) if columns.image else first_field(fields, IMAGE_FIELDS)
    if image is None:
        return Record(place, None, fields)
    try:
        if not isinstance(image, str):
            raise BadRecord(f"its image is no path: {image!r:.80}")
        return Record(place, images.find(image), fields)
    except BadRecord as fault:
        return Record(place, None, fields, fault)


def load_records(path: Path) -> list[Any]:
    """The records of a LLaVA JSON, unchecked. Raises `UserError` where the file can't be read or holds no list."""
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON at line {error.lineno} ({error.msg}): repair it.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text at byte {error.start}: save it as UTF-8.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a list of records: give a LLaVA JSON.") from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): give a readable LLaVA JSON.") from None
    if not isinstance(records, list):
        raise UserError(
            f"{path} holds {type(records).__name__} at its top, but a LLaVA JSON is a list of records: "
            "wrap the records in [ ]."
        )
    return records
