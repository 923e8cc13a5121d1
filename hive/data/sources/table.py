"""Records in tables: CSV and TSV, whose first line names the columns."""

import csv
from collections.abc import Sequence
from pathlib import Path

from hive.data.source import IMAGE_FIELDS, BadRecord, Columns, Record, Source, field, first_field
from hive.data.sources.image_store import ImageStore
from hive.data.sources.json_records import PathReader
from hive.errors import UserError


def open_table(files: Sequence[Path], images: ImageStore, columns: Columns) -> Source:
    """The rows of tables, in order. Raises `UserError` for a table that can't be read."""
    records: list[Record] = []
    for path in files:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                separator = "\t" if "\t" in file.readline() else ","
                file.seek(0)
                for line, fields in enumerate(csv.DictReader(file, delimiter=separator), 2):
                    records.append(_record(f"{path.name} line {line}", fields, images, columns))
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path} can't be read as a table ({error}): give a readable file.") from None
    return Source(records, len(records), PathReader(images, [record.image or "" for record in records]))


def _record(place: str, fields: dict[str, str], images: ImageStore, columns: Columns) -> Record:
    image = field(fields, columns.image) if columns.image else first_field(fields, IMAGE_FIELDS)
    try:
        return Record(place, None if image is None else images.find(str(image)), fields)
    except BadRecord as fault:
        return Record(place, None, fields, fault)
