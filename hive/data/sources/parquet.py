""".parquet files with a column of images, as bytes or as paths, and columns of texts."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hive.data.source import (
    CAPTION_FIELDS,
    CONVERSATION_FIELDS,
    IMAGE_FIELDS,
    BadRecord,
    Columns,
    OtherRecord,
    Record,
    Source,
    field,
)
from hive.data.turns import as_list
from hive.errors import UserError, first_line

if TYPE_CHECKING:
    from hive.data.sources.image_store import ImageStore

_CACHE_BYTES = 512 << 20  # decoded row groups kept by each process, of all files together
_OPEN_FILES = 32
_FURTHER_FIELDS = ("system",)  # what a conversation may begin with
_IMAGES_AT_ONCE = 256  # rows; Arrow can't decode more than 2 GB of nested bytes in one piece
_TEXTS_AT_ONCE = 4096  # rows


@dataclass(frozen=True)
class _File:
    """What a file's footer says."""

    path: str
    groups: list[int]
    """Rows of each row group."""
    image: str
    """The column with the images; a dot leads into a struct."""
    bytes_leaf: int | None
    """The number of the leaf column with the encoded bytes; None: there are only paths."""
    path_leaf: str | None
    texts: list[str]


class ParquetReader:
    """Reads rows, keeping the row groups used last in memory; each process opens the files for itself."""

    def __init__(self, files: Sequence[_File], images: "ImageStore | None", cache_bytes: int = _CACHE_BYTES) -> None:
        self.files, self.images, self.cache_bytes = files, images, cache_bytes
        self.groups = [(file, group) for file in files for group in range(len(file.groups))]
        self.starts = np.cumsum([0, *(rows for file in files for rows in file.groups)])  # first row of each group
        self._open: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._cached: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_cached": OrderedDict()}

    def __call__(self, row: int) -> bytes:
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        data, path = self.image(group, row - int(self.starts[group]))
        if data is not None:
            return data
        if path is None or self.images is None:
            raise OSError("the row holds no image")
        try:
            return self.images.read(self.images.find(path))
        except BadRecord as error:
            raise OSError(str(error)) from None

    def image(self, group: int, row: int) -> tuple[bytes | None, str | None]:
        """(encoded bytes, path) of the first image of a row of a row group; both None where it has no image."""
        return _image(self._fields(group, row), self.groups[group][0].image)

    def number(self, group: int, row: int) -> int:
        """The number of images of a row of a row group."""
        return _number(field(self._fields(group, row), self.groups[group][0].image))

    def _fields(self, group: int, row: int) -> dict[str, Any]:
        return {self.groups[group][0].image.partition(".")[0]: self._column(group)[row].as_py()}

    def _column(self, group: int) -> pa.ChunkedArray:
        if group not in self._cached:
            file, number = self.groups[group]
            try:
                batches = self._file(file.path).iter_batches(_IMAGES_AT_ONCE, [number], [file.image], use_threads=False)
                self._cached[group] = pa.chunked_array([batch.column(0) for batch in batches])
            except pa.ArrowException as error:
                raise OSError(str(error)) from None
            while len(self._cached) > 1 and sum(column.nbytes for column in self._cached.values()) > self.cache_bytes:
                self._cached.popitem(last=False)
        self._cached.move_to_end(group)
        return self._cached[group]

    def _file(self, path: str) -> pq.ParquetFile:
        if path not in self._open:
            self._open[path] = pq.ParquetFile(path, memory_map=True)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


def open_parquet(files: Sequence[Path], root: Path, images: "ImageStore | None", columns: Columns) -> Source:
    """The rows of .parquet files, whose names begin at `root`; images that are paths alone are read from `images`.

    The image is bytes, a struct of bytes and path, a path, or a list of one of these; of several, the record says so.
    `UserError` names the file that is no Parquet or lacks a column. The files may order their columns differently.
    """
    opened = [_open(str(file), images, columns) for file in files]
    reader = ParquetReader(opened, images)
    return Source(_records(opened, root, images, reader), int(reader.starts[-1]), reader)


def _open(path: str, images: "ImageStore | None", columns: Columns) -> _File:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            schema, metadata = file.schema_arrow, file.metadata
            leaves = [metadata.schema.column(leaf).path for leaf in range(metadata.num_columns)]
            groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: build the data first, or give another --data.") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read as Parquet ({first_line(error)}): write or fetch it again.") from None
    given = f"{path} has the columns {', '.join(schema.names)}"
    for flag, name in (("image", columns.image), ("caption", columns.caption)):
        if name is not None and _kind(schema, name) is None:
            raise UserError(
                f'{given}, but no "{name}", which --dataset.{flag}-column names: give the name of one of them.'
            )
    image = columns.image or next((name for name in IMAGE_FIELDS if name in schema.names), None)
    texts = [*([columns.caption] if columns.caption else CAPTION_FIELDS), *CONVERSATION_FIELDS]
    texts = [name for name in texts if _kind(schema, name) is not None and name != image]
    further = [name for name in _FURTHER_FIELDS if name in schema.names]
    if image is None or not texts:
        lack, flag = ("an image", "image") if image is None else ("texts", "caption")
        raise UserError(f"{given}, none of which is known to hold {lack}: name it with --dataset.{flag}-column.")
    parts = _image_leaves(_kind(schema, image), image, leaves)
    if parts is None:
        raise UserError(
            f'The column "{image}" of {path} is {_kind(schema, image)}, but images are bytes, a struct of bytes and '
            "path, or paths: store them so, or name another column with --dataset.image-column."
        )
    data, place = parts
    if data is None and place is not None and images is None:
        raise UserError(
            f'The column "{image}" of {path} holds paths: give the folder that they start from with --image-root.'
        )
    return _File(path, groups, image, None if data is None else leaves.index(data), place, [*texts, *further])


def _kind(schema: pa.Schema, name: str) -> pa.DataType | None:
    """The type of a column, of which dots in the name lead into structs; None where there is none."""
    if name in schema.names:
        return schema.field(name).type
    outer, _, inner = name.partition(".")
    kind = schema.field(outer).type if outer in schema.names else None
    return _kind(pa.schema(list(kind)), inner) if inner and kind is not None and pa.types.is_struct(kind) else None


def _image_leaves(kind: pa.DataType, name: str, leaves: Sequence[str]) -> tuple[str | None, str | None] | None:
    """The leaf columns with the bytes and the paths of an image column; None where it holds no images."""
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    inside = [leaf for leaf in leaves if leaf == name or leaf.startswith(f"{name}.")]
    if pa.types.is_null(kind):
        return None, None  # no row of this file has an image
    if not pa.types.is_struct(kind):
        return (inside[0], None) if _is_bytes(kind) else (None, inside[0]) if _is_text(kind) else None
    fields = {part.name: part.type for part in kind}
    data = next((leaf for leaf in inside if leaf.endswith(".bytes") and _is_bytes(fields.get("bytes"))), None)
    path = next((leaf for leaf in inside if leaf.endswith(".path") and _is_text(fields.get("path"))), None)
    return (data, path) if data or path else None


def _is_bytes(kind: pa.DataType | None) -> bool:
    return kind is not None and (
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _image(fields: Mapping[str, object], name: str) -> tuple[bytes | None, str | None]:
    """(encoded bytes, path) of the first image in a column."""
    value = _first_of(field(fields, name))
    parts = value if isinstance(value, Mapping) else {"bytes": value, "path": value}
    data, path = parts.get("bytes"), parts.get("path")
    return data if isinstance(data, bytes) else None, path if isinstance(path, str) and path else None


def _first_of(value: object) -> object:
    while isinstance(value, list):
        value = value[0] if value else None
    return value


def _records(
    files: Sequence[_File], root: Path, images: "ImageStore | None", reader: ParquetReader
) -> Iterator[Record]:
    group = 0
    for file in files:
        label, row = os.path.relpath(file.path, root), 0
        try:
            with pq.ParquetFile(file.path, memory_map=True) as opened:
                for number in range(len(file.groups)):
                    rows = list(_rows(opened, file, number))
                    has_bytes = _has_bytes(opened, file, number, rows, reader, group)
                    numbers = _numbers(opened, file, number, rows, reader, group)
                    for fields, has_image, several in zip(rows, has_bytes, numbers, strict=True):
                        record = _record(f"{label}:{row}", fields, file.image, has_image, images)
                        if several > 1:
                            record = record._replace(fault=OtherRecord(f"has {several} images, but a pair has one"))
                        yield record
                        row += 1
                    group += 1
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{file.path} can't be read as Parquet ({first_line(error)}): write or fetch it again."
            ) from None


def _rows(opened: pq.ParquetFile, file: _File, group: int) -> Iterator[dict[str, Any] | None]:
    """The texts and the paths of images of each row; None for a text that is not UTF-8."""
    columns = [*file.texts, *([file.path_leaf] if file.path_leaf else [])]
    for batch in opened.iter_batches(_TEXTS_AT_ONCE, [group], columns, use_threads=False):
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:
            for row in range(batch.num_rows):
                try:
                    yield batch.slice(row, 1).to_pylist()[0]
                except UnicodeDecodeError:
                    yield None


def _has_bytes(
    opened: pq.ParquetFile, file: _File, number: int, rows: Sequence[Any], reader: ParquetReader, group: int
) -> list[bool]:
    """Whether each row has the bytes of its image; reads images only where the footer's count of nulls leaves it open.

    The count is of null bytes and of lists without an element, so it is that of the rows that have no image even by
    their paths, if all others have bytes.
    """
    if file.bytes_leaf is None:
        return [False] * len(rows)
    statistics = opened.metadata.row_group(number).column(file.bytes_leaf).statistics
    nulls = statistics.null_count if statistics is not None and statistics.has_null_count else None
    if nulls == 0:
        return [True] * len(rows)
    if nulls is not None and file.path_leaf is not None and None not in rows:
        values = [field(fields, file.image) for fields in rows]
        if nulls == sum(map(_count_missing, values)):
            return [_first_of(value) is not None for value in values]
    return [reader.image(group, row)[0] is not None for row in range(len(rows))]


def _numbers(
    opened: pq.ParquetFile, file: _File, number: int, rows: Sequence[Any], reader: ParquetReader, group: int
) -> list[int]:
    """How many images each row has; reads images only where the footer says that lists of bytes have several."""
    footer = opened.metadata.row_group(number)
    if file.bytes_leaf is not None and footer.column(file.bytes_leaf).num_values == footer.num_rows:
        return [1] * len(rows)
    if file.path_leaf is not None:
        return [1 if fields is None else _number(field(fields, file.image)) for fields in rows]
    return [reader.number(group, row) for row in range(len(rows))]


def _number(value: object) -> int:
    return len(value) if isinstance(value, list) else 1


def _count_missing(value: object) -> int:
    """How many nulls the values of a struct's leaf have where a column has this value."""
    if isinstance(value, list):
        return sum(map(_count_missing, value)) if value else 1
    return int(value is None)


def _record(
    place: str, fields: dict[str, Any] | None, column: str, has_bytes: bool, images: "ImageStore | None"
) -> Record:
    if fields is None:
        return Record(place, place, {}, BadRecord("it has a text that is not valid UTF-8"))
    path = None if has_bytes else _image(fields, column)[1]
    fields = {name: as_list(value) if name in CONVERSATION_FIELDS else value for name, value in fields.items()}
    if path is None:
        return Record(place, place if has_bytes else None, fields)
    try:
        if images is None:
            raise BadRecord(f"its image is the path {path} without bytes: name the folder with --image-root")
        return Record(place, images.find(path), fields)
    except BadRecord as error:
        return Record(place, path, fields, error)
