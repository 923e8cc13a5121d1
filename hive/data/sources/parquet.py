"""A .parquet file with a column of encoded images and a column of captions."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hive.data.source import CAPTION_FIELDS, BadRecord, Columns, Record, Source
from hive.data.sources.image_store import ImageStore
from hive.errors import UserError, first_line

_CACHE_BYTES = 512 << 20  # decoded row groups kept by each process


class ParquetReader:
    """Reads rows, keeping the row groups used last in memory; each process opens the file for itself."""

    def __init__(self, path: str, column: str, starts: np.ndarray) -> None:
        self.path, self.column, self.starts = path, column, starts  # starts [groups + 1]: first row of each group
        self._file: pq.ParquetFile | None = None
        self._groups: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_groups": OrderedDict()}

    def __call__(self, row: int) -> bytes:
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        data = self.group(group)[row - int(self.starts[group])].as_py()
        if not isinstance(data, bytes):
            raise OSError("the row holds no image")
        return data

    def group(self, group: int) -> Any:
        """The images of one row group, a pyarrow array of binary."""
        if group not in self._groups:
            try:
                self._file = self._file or pq.ParquetFile(self.path, memory_map=True)
                column = self._file.read_row_group(group, columns=[self.column], use_threads=False).column(0)
            except pa.ArrowException as error:
                raise OSError(str(error)) from None
            array = column.chunk(0) if column.num_chunks == 1 else pa.chunked_array(column.chunks, column.type)
            self._groups[group] = pc.struct_field(array, "bytes") if pa.types.is_struct(array.type) else array
            while len(self._groups) > 1 and sum(item.nbytes for item in self._groups.values()) > _CACHE_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group]


def open_parquet(files: Sequence[Path], root: Path, images: ImageStore | None, columns: Columns) -> Source:
    """The rows of one .parquet file, whose images are in it. Raises `UserError` for a file that can't be read.

    Images are in the column `image`, binary or a struct with the binary field `bytes`.
    """
    (path,) = files
    rule = 'it needs a column "image" with the encoded bytes and a column of captions'
    try:
        file = pq.ParquetFile(path, memory_map=True)
        schema = file.schema_arrow
        texts = [name for name in (columns.caption, *CAPTION_FIELDS) if name in schema.names]
        if not texts or "image" not in schema.names:
            raise UserError(f"{path} has the columns {', '.join(schema.names)}, but {rule}: rename or add them.")
        column = _image_column(schema.field("image").type)
        if column is None:
            raise UserError(f'The column "image" of {path} is {schema.field("image").type}, but {rule}: store bytes.')
        rows: list[dict[str, object]] = file.read(columns=texts, use_threads=False).to_pylist()
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        reader = ParquetReader(str(path), column, np.cumsum([0, *sizes]))
        nulls = _nulls(file, reader)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: build the data first, or give another --data.") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read as Parquet ({first_line(error)}): write or fetch it again.") from None
    records = []
    for row, fields in enumerate(rows):
        place = f"{os.path.relpath(path, root)}:{row}"
        fault = BadRecord("the row holds no image bytes") if row in nulls else None
        records.append(Record(place, place, fields, fault))
    return Source(records, len(records), reader)


def _image_column(kind: Any) -> str | None:
    """The path of the leaf column with the bytes; None where there is none."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, name = kind.field("bytes").type, "image.bytes"
    else:
        name = "image"
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return name if binary else None


def _nulls(file: pq.ParquetFile, reader: ParquetReader) -> set[int]:
    """The rows without an image; images are read only where the file doesn't count its nulls."""
    leaves = [file.metadata.schema.column(leaf).path for leaf in range(file.metadata.num_columns)]
    leaf = leaves.index(reader.column)
    rows: set[int] = set()
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(leaf).statistics
        if statistics is not None and statistics.has_null_count and statistics.null_count == 0:
            continue
        nulls = np.flatnonzero(reader.group(group).is_null().to_numpy(zero_copy_only=False))
        rows.update(int(reader.starts[group]) + int(row) for row in nulls)
    return rows
