"""What --data may be, and how it becomes a source: which files it names, and which module reads files of their kind."""

import os
import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

from hive.config import DataConfig, flag_of
from hive.data.find_files import expand, files_below, on_disk
from hive.data.source import Columns, Source
from hive.errors import UserError

EMBEDDED = Path(__file__).parent / "embedded"
UNPACK = {
    ".gz": "gunzip {}",
    ".tgz": "gunzip {}",
    ".zip": "unzip {} -d FOLDER",
    ".bz2": "bunzip2 {}",
    ".xz": "unxz {}",
    ".zst": "unzstd {}",
}
"""The command that unpacks a file with this suffix."""
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "validation"
)
"""Words in the names of files that say which split they are of, as Hugging Face reads them."""


class Request(NamedTuple):
    """What flags say of a source."""

    data: str
    image_root: Path | None
    options: DataConfig
    flag: str
    """The one that gave `data`."""
    download: bool
    """Whether a data set that is only on Hugging Face is copied here."""

    @property
    def columns(self) -> Columns:
        """The fields that flags name."""
        return columns_of(self.options)

    def __str__(self) -> str:
        return f"{self.flag} {self.data}"


class Kind(NamedTuple):
    """Files that one module reads."""

    words: str
    suffixes: tuple[str, ...]
    open: Callable[[Sequence[Path], Request], Source]
    fills_folders: bool = False
    """Whether a folder of such files is a source too."""
    has_paths: bool = True
    """Whether records name images by paths, which start at --image-root."""


def _open_json(files: Sequence[Path], request: Request) -> Source:
    from hive.data.sources.image_store import open_store
    from hive.data.sources.json_records import open_json

    return open_json(files, open_store(request.image_root or common_folder(files)), request.columns)


def _open_table(files: Sequence[Path], request: Request) -> Source:
    from hive.data.sources.image_store import open_store
    from hive.data.sources.table import open_table

    return open_table(files, open_store(request.image_root or common_folder(files)), request.columns)


def _open_tar(files: Sequence[Path], request: Request) -> Source:
    from hive.data.sources.tar import open_tar

    return open_tar(files, common_folder(files), request.columns)


def _open_parquet(files: Sequence[Path], request: Request) -> Source:
    from hive.data.sources.image_store import open_store
    from hive.data.sources.parquet import open_parquet  # it needs pyarrow, which a GPU machine may lack (docs/gpu.md)

    images = None if request.image_root is None else open_store(request.image_root)
    return open_parquet(files, common_folder(files), images, request.columns)


def _open_mixture(files: Sequence[Path], request: Request) -> Source:
    from hive.data.sources.mixture import open_mixture

    if len(files) > 1:
        raise UserError(
            f"{request} names {len(files)} mixtures, such as {files[1]}: give one file that names all sources."
        )
    return open_mixture(files[0], request.options, partial(open_source, download=request.download), is_hub_name)


KINDS = (
    Kind("JSON", (".json", ".jsonl", ".ndjson"), _open_json),
    Kind("tables", (".csv", ".tsv"), _open_table),
    Kind("webdataset shards", (".tar",), _open_tar, fills_folders=True, has_paths=False),
    Kind("Parquet files", (".parquet",), _open_parquet, fills_folders=True),
    Kind("a mixture", (".toml", ".yaml", ".yml"), _open_mixture, has_paths=False),
)
_BY_SUFFIX = {suffix: kind for kind in KINDS for suffix in kind.suffixes}


def _in_words(kinds: Sequence[Kind], last: str = "or") -> str:
    words = [f"{kind.words} ({', '.join(kind.suffixes)})" for kind in kinds]
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


_FILLING = [kind for kind in KINDS if kind.fills_folders]
SOURCES = (
    f'"embedded", {_in_words(KINDS)}, a folder of images with texts, or of {_in_words(_FILLING)}, or the name ORG/NAME '
    "of a data set on Hugging Face"
)


def open_source(
    data: str, image_root: Path | None, options: DataConfig, flag: str = "--data", *, download: bool = True
) -> Source:
    """The records of what `flag` names: one of `SOURCES`, or several files by glob, by braces, or with :: between them.

    `image_root` is the folder that paths of images start from; by default the folder that the files are in. Raises
    `UserError` for what is no source, and without `download` for a data set that is on Hugging Face alone.
    """
    request = Request(data, image_root, options, flag, download)
    if data == "embedded":
        _refuse_image_root(request)
        _refuse_choice(request, "split")
        _refuse_choice(request, "subset")
        return open_parquet_file(EMBEDDED / "train.parquet", request.columns)
    if is_hub_name(data):
        _refuse_image_root(request)
        from hive.data.sources.hub import open_hub

        return open_hub(data, options.subset, options.split, request.columns, download=download)
    paths = expand(data, flag, SOURCES)
    _refuse_choice(request, "subset")
    if len(paths) == 1 and paths[0].is_dir():
        from hive.data.sources.image_folder import is_image_folder, open_image_folder

        if is_image_folder(paths[0]):
            _refuse_image_root(request)
            return open_image_folder(paths[0], request.columns, _folders_of_split(paths[0], request))
        files = _of_split(_files_of_folder(paths[0], request), paths[0], request)
    else:
        _refuse_choice(request, "split")
        from hive.data.sources.image_folder import is_image_folder

        if of_images := next((path for path in paths if path.is_dir() and is_image_folder(path)), None):
            raise UserError(
                f"{request} names {of_images}, a folder of images, beside others: write a mixture (.toml) that names "
                "each, or give the folder that they are in."
            )
        files = [file for path in paths for file in (_files_of_folder(path, request) if path.is_dir() else [path])]
    kind = _one_kind(files, request)
    if not kind.has_paths:
        _refuse_image_root(request)
    return kind.open(files, request)


def columns_of(options: DataConfig) -> Columns:
    """The fields that flags name."""
    return Columns(options.image_column, options.caption_column)


def open_parquet_file(path: Path, columns: Columns) -> Source:
    """The records of one Parquet file with the images in it."""
    from hive.data.sources.parquet import open_parquet

    return open_parquet([path], path.parent, None, columns)


def common_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that all files are in: what places and paths of images start from."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def is_hub_name(data: str, folder: Path = Path()) -> bool:
    """Whether it can only be a data set or model on Hugging Face: no file, and nothing in a folder that is there.

    Paths start at `folder`.
    """
    owner, _, name = data.partition("/")
    suffix = os.path.splitext(name)[1].lower()
    is_file_name = suffix in _BY_SUFFIX or suffix in UNPACK
    return bool(HUB_NAME.fullmatch(data)) and not is_file_name and on_disk(folder / owner) is None


def _files_of_folder(folder: Path, request: Request) -> list[Path]:
    """The files of the one kind that fills the folder; `UserError` where there is none, or two."""
    files = files_below(folder)
    found = {kind: [file for file in files if _kind(file) is kind] for kind in KINDS}
    filling = [kind for kind in KINDS if kind.fills_folders and found[kind]]
    for file in files:
        packed = _kind(file.with_suffix(".tar" if file.suffix.lower() == ".tgz" else ""))
        if file.suffix.lower() in UNPACK and packed is not None and packed in (filling or _FILLING):
            _refuse_packed(file, request)
    if len(filling) > 1:
        examples = " and ".join(f"{kind.words} such as {found[kind][0]}" for kind in filling)
        raise UserError(
            f"{request} holds {examples}: give files of one kind, such as '{folder}/**/*{filling[0].suffixes[0]}'."
        )
    if filling:
        return found[filling[0]]
    single = next((files[0] for files in found.values() if files), None)
    if single is not None:
        raise UserError(f"{request} is a folder without images, but with files such as {single.name}: give {single}.")
    packed_file = next((file for file in files if file.suffix.lower() in UNPACK), None)
    if packed_file is not None:
        _refuse_packed(packed_file, request)
    holds = f"{len(files)} files such as {files[0].name}" if files else "nothing"
    raise UserError(
        f"{request} is a folder that holds {holds}, but neither images nor {_in_words(_FILLING, 'nor')}: give "
        f"{SOURCES}."
    )


def _of_split(files: list[Path], folder: Path, request: Request) -> list[Path]:
    """The files of --dataset.split, where names of files say that there are several splits; else all files."""
    splits = {file: _split(file.relative_to(folder)) for file in files}
    named = {split for split in splits.values() if split is not None}
    wanted = _SPLITS.get(request.options.split, request.options.split)
    if wanted not in named and (named or request.options.split != "train"):
        raise UserError(
            f"{request} has {'files of the splits ' + ', '.join(sorted(named)) if named else 'no splits'}, but "
            f"--dataset.split is {request.options.split}: give another split, or the names of the files."
        )
    return [file for file in files if splits[file] in (None, wanted)]


def _folders_of_split(folder: Path, request: Request) -> Callable[[str], bool]:
    """Whether a folder of images, by its path below `folder`, is read: it is of --dataset.split, or of no split."""
    folders = [Path(path).relative_to(folder) for path, _, _ in os.walk(folder, followlinks=False)]
    named = {split for path in folders if (split := _split(path)) is not None}
    if len(named) < 2:
        _refuse_choice(request, "split")
        return lambda path: True
    wanted = _SPLITS.get(request.options.split, request.options.split)
    if wanted not in named:
        raise UserError(
            f"{request} has folders of the splits {', '.join(sorted(named))}, but --dataset.split is "
            f"{request.options.split}: give another split."
        )
    return lambda path: _split(Path(path)) in (None, wanted)


def _split(file: Path) -> str | None:
    """The split that a word in a path names, the last one: "data/train-00000-of-00003.parquet" is of "train"."""
    words = [_SPLITS[word] for word in re.split(r"[^a-z]+", str(file).lower()) if word in _SPLITS]
    return words[-1] if words else None


def _kind(file: Path) -> Kind | None:
    return _BY_SUFFIX.get(file.suffix.lower())


def _one_kind(files: Sequence[Path], request: Request) -> Kind:
    """The kind of all files; `UserError` where one is of another kind, or of none."""
    first: dict[Kind, Path] = {}
    for file in files:
        kind = _kind(file)
        if kind is None:
            if file.suffix.lower() in UNPACK:
                _refuse_packed(file, request)
            also = f" also names {file}, which" if len(files) > 1 else ""
            raise UserError(f"{request}{also} is of no known kind: give {SOURCES}.")
        first.setdefault(kind, file)
    if len(first) > 1:
        examples = " and ".join(f"{kind.words} such as {file}" for kind, file in first.items())
        raise UserError(f"{request} names {examples}: give files of one kind, or a mixture of sources (.toml, .yaml).")
    return next(iter(first))


def _refuse_packed(file: Path, request: Request) -> NoReturn:
    command = UNPACK[file.suffix.lower()].format(shlex.quote(str(file)))
    raise UserError(
        f"{request} names {file}, which is compressed, but files are read in place: unpack it by {command} and give "
        f"{request.flag} what comes out."
    )


def _refuse_image_root(request: Request) -> None:
    if request.image_root is not None:
        flag = re.sub(r"data(\d*)$", r"image-root\1", request.flag)
        raise UserError(
            f"{flag} goes with {_in_words([kind for kind in KINDS if kind.has_paths])}, but {request.flag} is "
            f"{request.data}: leave {flag} out."
        )


def _refuse_choice(request: Request, field: str) -> None:
    """Raises `UserError` where a flag chooses among parts that the data hasn't."""
    value = getattr(request.options, field)
    if value != getattr(DataConfig(), field):
        flag = flag_of(f"dataset.{field}")
        raise UserError(f"{flag} is {value}, but {request} has no {field}s to choose from: leave {flag} out.")
