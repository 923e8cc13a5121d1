"""A data set on Hugging Face, streamed once into Parquet files in a cache folder, which are then read at random."""

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from hive.command import NO_ACCESS, NO_ROOM
from hive.data.source import Columns, Source
from hive.data.sources.parquet import open_parquet
from hive.errors import UserError
from hive.model_files import within

if TYPE_CHECKING:
    from datasets import IterableDataset

_ROWS_A_GROUP = 16  # a row is read with its whole group
_FILE_BYTES = 512 << 20
_ROWS_TO_INFER = 200  # columns are known by these, where a data set doesn't say them
_UNUSED = ("Audio", "Video", "Pdf", "Nifti", "Mesh")
"""Features of `datasets` that hold neither images nor texts."""


def open_hub(name: str, subset: str | None, split: str, columns: Columns, *, download: bool = True) -> Source:
    """The records of a split of a data set on Hugging Face, which is downloaded the first time.

    Like a model, a data set is downloaded once: what is in the cache is taken as it is, without a network too, and
    later changes on the hub change nothing here. Raises `UserError` where it is not to be had, or not here and
    `download` is False.
    """
    from filelock import FileLock

    if not download and find_copy(name, subset, split) is None:
        raise UserError(f"--data {name} is not in {cache_folder()} yet: a run copies it there from Hugging Face.")
    folder = _folder(name, subset, split)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # the other processes of a run wait for the one that downloads
            copy = find_copy(name, subset, split) or _download(name, subset, split, folder)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise UserError(
                f"The disk or its quota is full: --data {name} is copied to {folder}; make room, or set HF_HOME to a "
                "folder on a larger disk, then start again."
            ) from None
        raise
    return open_parquet(sorted(copy.glob("*.parquet")), copy, None, columns)


def cache_folder() -> Path:
    """Where copies of data sets are kept: hive-datasets in HF_HOME, which is in ~/.cache where nothing else is set."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "hive-datasets"


def find_copy(name: str, subset: str | None, split: str) -> Path | None:
    """The folder of the newest whole copy of a split in the cache; None where there is none. It asks nobody."""
    copies = [path for path in _folder(name, subset, split).glob("*/") if path.suffix != ".part"]
    return max(copies, key=os.path.getmtime, default=None)


def _folder(name: str, subset: str | None, split: str) -> Path:
    return cache_folder() / quote(name, safe="") / quote(subset or "default", safe="") / quote(split, safe="")


def _download(name: str, subset: str | None, split: str, folder: Path) -> Path:
    """The folder of a whole new copy, named by the commit; what an earlier try left is removed first."""
    commit = _find_commit(name)  # first, because importing takes seconds
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"--data {name} is a data set on Hugging Face, which the package datasets reads: pip install "
            "'hive-pretraining[hub]', or give files."
        ) from None
    try:
        stream = datasets.load_dataset(name, subset, split=split, streaming=True, revision=commit)
    except Exception as error:
        raise _refusal(
            name, error, "can't be opened", "correct the name, --dataset.subset or --dataset.split"
        ) from error
    for part in folder.glob("*.part"):
        shutil.rmtree(part)
    try:
        return write_copy(stream, folder / commit, f"{name} ({split})")
    except UserError:
        raise
    except Exception as error:  # the network fails in many ways, and so does a file in a data set
        raise _refusal(name, error, "broke off while it was copied", "start again") from error


def _refusal(name: str, error: Exception, what: str, cure: str) -> UserError:
    if isinstance(error, OSError) and error.errno in (*NO_ROOM, *NO_ACCESS):
        raise error
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"--data {name} {what} ({reason:.400}): {cure}, or give files.")


def _find_commit(name: str) -> str:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    limit = constants.HF_HUB_ETAG_TIMEOUT
    missing = f"--data {name} is no file here and no data set in {cache_folder()}"
    try:
        commit = within(limit, lambda: HfApi().dataset_info(name, timeout=limit)).sha
    except OfflineModeIsEnabled:
        raise UserError(f"{missing}, and HF_HUB_OFFLINE is set: unset it, or give files.") from None
    except GatedRepoError:
        raise UserError(
            f"{missing}, and the hub gives it only to those who accepted its terms: accept them on the page of the "
            "data set, log in with `hf auth login`, and start again."
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{missing}, and the hub has no such data set, or not for you: correct the name, log in with "
            "`hf auth login`, or give files."
        ) from None
    except Exception as error:
        raise _refusal(
            name, error, "is not here, and the hub can't be reached", "start where there is a network"
        ) from error
    assert commit is not None, "asked without a list of fields"
    return str(commit)


def write_copy(stream: "IterableDataset", folder: Path, what: str, file_bytes: int = _FILE_BYTES) -> Path:
    """Writes a stream as Parquet files with the encoded images in them; `folder` is there only once it is whole.

    Images that have no encoded bytes, as those that Pillow made, are stored as PNG. A file is ended at `file_bytes`.
    """
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir()
    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=Console(stderr=True)
        ) as bar:
            task = bar.add_task(f"copying {what}", total=_size(stream))
            for number, tables in enumerate(_files(_tables(stream), file_bytes)):
                _write(part / f"{number:05d}.parquet", tables, lambda table: bar.advance(task, table.nbytes))
        part.replace(folder)
    except BaseException:  # Ctrl-C as well
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder


def _size(stream: "IterableDataset") -> int | None:
    """The bytes of a split, where the data set says them."""
    split = (stream.info.splits or {}).get(str(stream.split))
    return (split.num_bytes or None) if split is not None else None


def _tables(stream: "IterableDataset") -> Iterator[pa.Table]:
    """The rows as they are encoded, a table a row group."""
    import datasets
    from datasets.table import embed_table_storage

    if stream.features is None:
        head = list(stream.take(_ROWS_TO_INFER))
        stream = stream.cast(datasets.Dataset.from_list(head).features)
    assert stream.features is not None
    unused = [name for name, feature in stream.features.items() if type(feature).__name__ in _UNUSED]
    stream = stream.remove_columns(unused).decode(False).with_format("arrow")
    for table in stream.iter(batch_size=_ROWS_A_GROUP):
        yield embed_table_storage(table)


def _files(tables: Iterator[pa.Table], file_bytes: int) -> Iterator[Iterator[pa.Table]]:
    """The tables of each file; each must be read to its end before the next."""
    for first in tables:
        yield _until(chain([first], tables), file_bytes)


def _until(tables: Iterator[pa.Table], file_bytes: int) -> Iterator[pa.Table]:
    size = 0
    for table in tables:
        yield table
        size += table.nbytes
        if size >= file_bytes:
            return


def _write(path: Path, tables: Iterator[pa.Table], report: Callable[[pa.Table], None]) -> None:
    first = next(tables)
    with path.open("wb") as file:
        with pq.ParquetWriter(file, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table.cast(first.schema), row_group_size=_ROWS_A_GROUP)
                report(table)
        file.flush()
        os.fsync(file.fileno())
