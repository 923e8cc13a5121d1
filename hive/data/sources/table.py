"""Records in tables: CSV and TSV, whose first line names the columns."""

import csv
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from hive.data.images import EXTENSIONS
from hive.data.source import (
    CAPTION_FIELDS,
    CONVERSATION_FIELDS,
    IMAGE_FIELDS,
    BadRecord,
    Columns,
    Source,
)
from hive.data.sources.image_store import ImageStore
from hive.data.sources.path_records import Entry, open_files, text_encoding
from hive.errors import UserError
from hive.files import has_surrogate

SEPARATORS = ("\t", ",", ";", "|")
_IMAGES, _TEXTS = IMAGE_FIELDS, (*CAPTION_FIELDS, *CONVERSATION_FIELDS)

_SEPARATOR_LINE = re.compile(r"sep=.")  # Excel's


def open_table(files: Sequence[Path], images: ImageStore, columns: Columns) -> Source:
    """The rows of tables, in order. Raises `UserError` for a table whose columns are not named."""
    return open_files(files, partial(read_table, columns=columns), images, columns)


def read_table(path: Path, name: str, columns: Columns) -> Iterator[Entry]:
    """The rows of one table, whose places begin with `name`. The separator is the one that the header shows."""
    try:
        # A byte that is not UTF-8 spoils the row that it is in, not the table.
        with path.open(encoding=text_encoding(path), errors="surrogateescape", newline="") as file:
            line = next((line for line in file if line.strip() and not _SEPARATOR_LINE.fullmatch(line.strip())), "")
            separator, header = _read_header(path, line, columns)
            for number, row in _read_rows(file, separator):
                yield _entry(f"{name} line {number}", header, row)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error}): give a readable file.") from None


def _read_header(path: Path, line: str, columns: Columns) -> tuple[str, list[str]]:
    """(separator, names of the columns); the separator is the one by which a column for images or texts has a name."""
    images = _IMAGES if columns.image is None else (columns.image,)
    texts = _TEXTS if columns.caption is None else (columns.caption,)

    def known(header: Sequence[str]) -> tuple[bool, int]:
        has_image, has_text = (any(name in header for name in names) for names in (images, texts))
        return has_image and has_text, len(header)

    headers = {separator: [_usual(name, columns) for name in _split(line, separator)] for separator in SEPARATORS}
    separator = max(headers, key=lambda separator: known(headers[separator]))
    header = headers[separator]
    if not known(header)[0]:
        raise UserError(
            f"{path} names the columns {', '.join(header):.200} in its first line, which has to name one for images "
            f"({', '.join(images)}) and one for texts ({', '.join(texts)}): add such a line, or name its columns with "
            "--dataset.image-column and --dataset.caption-column."
        )
    return separator, header


def _usual(name: str, columns: Columns) -> str:
    """The name of a column, small where a usual name was written with capitals and no flag has it so."""
    is_usual = name.lower() in (*_IMAGES, *_TEXTS) and name not in (columns.image, columns.caption)
    return name.lower() if is_usual else name


def _split(line: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]
    except csv.Error:
        return [line.strip()]


def _read_rows(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """(line, fields) of each row. Of a broken one, only the first line is given up, however far its quote runs on."""
    lines = iter(lines)
    number = 2  # of the line where the next row begins
    again: deque[str] = deque()  # lines that a broken row ran over
    taken: list[str] = []

    def feed() -> Iterator[str]:
        while True:
            line = again.popleft() if again else next(lines, None)
            if line is None:
                return
            taken.append(line)
            yield line

    rows = csv.reader(feed(), delimiter=separator, skipinitialspace=True, strict=True)
    row: list[str] | csv.Error | None
    while True:
        try:
            row = next(rows, None)
            if any(_is_row(line, separator, row) for line in taken[1:]):
                raise csv.Error("its quote runs on over other rows")
        except csv.Error as error:
            # Who separates by tabs seldom quotes: a quote that ends or opens a text in a wrong way belongs to it.
            row = taken[0].rstrip("\r\n").split(separator) if separator == "\t" else error
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
            rows = csv.reader(feed(), delimiter=separator, skipinitialspace=True, strict=True)
        if row is None:
            return
        if row:  # a blank line has no field
            yield number, row
        number += len(taken)
        taken.clear()


def _is_row(line: str, separator: str, row: list[str] | None) -> bool:
    """Whether a line inside a quoted text is a row: it has as many fields as that text's, and one names an image."""
    fields = line.split(separator)
    names_image = any(os.path.splitext(name.strip())[1][1:].lower() in EXTENSIONS for name in fields)
    return row is not None and len(fields) == len(row) and names_image


def _entry(place: str, header: Sequence[str], row: list[str] | csv.Error) -> Entry:
    if isinstance(row, csv.Error):
        return Entry(place, {}, BadRecord(f"the row is broken ({row}): a quote in a quoted text is written twice"))
    if any(row[len(header) :]):
        return Entry(
            place,
            {},
            BadRecord(f"the row has {len(row)} fields, but there are {len(header)} columns: quote a text with commas"),
        )
    fault = BadRecord("the row is not UTF-8 text; save the table as UTF-8") if any(map(has_surrogate, row)) else None
    return Entry(place, dict(zip(header, row, strict=False)), fault)
