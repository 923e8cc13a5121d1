"""The few lines of hive/data/open_source.py, captions.py and pairs.py that conversations need until those are there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hive.config import DataConfig
from hive.data.pairs import Pairs
from hive.data.source import CAPTION_FIELDS, BadRecord, Columns, Record, Source, field, first_field
from hive.data.sources.image_folder import is_image_folder, open_image_folder
from hive.data.sources.image_store import open_store
from hive.data.sources.json_records import open_json
from hive.data.sources.table import open_table
from hive.errors import UserError


def columns_of(options: DataConfig) -> Columns:
    return Columns()


def open_source(data: str, image_root: Path | None, options: DataConfig, flag: str = "--data") -> Source:
    path = Path(data).expanduser()
    if path.is_dir() and is_image_folder(path):
        return open_image_folder(path, Columns())
    if not path.is_file():
        raise UserError(f"{flag} {data} is no file: give data.")
    open_kind = open_table if path.suffix in (".csv", ".tsv") else open_json
    return open_kind([path], open_store(image_root or path.parent), Columns())


def read_captions(record: Record, columns: Columns) -> tuple[str, ...]:
    value = field(record.fields, columns.caption) if columns.caption else first_field(record.fields, CAPTION_FIELDS)
    if not isinstance(value, str) or not value.strip():
        raise BadRecord("it has no caption")
    return (value,)


def collect(source: Source, read_texts: Callable[[Record], tuple[str, ...]], what: str) -> Pairs:
    texts: list[str] = []
    names: list[str] = []
    rows: list[int] = []
    first = ""
    for row, record in enumerate(source.records):
        try:
            if record.fault is not None:
                raise record.fault
            texts.append(read_texts(record)[0])
        except BadRecord as error:
            first = first or f"{record.place}: {error}"
        else:
            names.append(record.image or f"record {row}")
            rows.append(row if record.image else -1)
    if not texts:
        raise UserError(f"None of the records of {what} can be used, such as {first}.")
    return Pairs(texts, names, source.reader, np.array(rows, dtype=np.int64))
