"""webdataset's and img2dataset's shards: .tar files with KEY.jpg, or another image, beside KEY.txt or KEY.json."""

import json
import os
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hive.data.images import EXTENSIONS
from hive.data.source import CAPTION_FIELDS, CONVERSATION_FIELDS, BadRecord, Columns, Record, Source
from hive.errors import UserError

_TEXTS = ("txt", "json")
_LONGEST_TEXT = 1 << 20  # bytes; a longer sidecar is no caption
_BLOCK = 512
_CHUNK = 1 << 20  # bytes; how much of the zeros after an end mark is read at once
_COMPRESSED = {b"\x1f\x8b": (".gz", "gunzip"), b"BZh": (".bz2", "bunzip2"),
               b"\xfd7zXZ": (".xz", "unxz"), b"\x28\xb5\x2f\xfd": (".zst", "unzstd")}  # fmt: skip


@dataclass(frozen=True)
class TarReader:
    """Reads images by their offset in a shard; the archive isn't parsed again."""

    shards: list[str]
    shard: np.ndarray  # [n] int32
    offset: np.ndarray  # [n] int64, bytes
    size: np.ndarray  # [n] int64, bytes

    def __call__(self, row: int) -> bytes:
        with open(self.shards[self.shard[row]], "rb") as file:
            file.seek(int(self.offset[row]))
            data = file.read(int(self.size[row]))
        if len(data) != self.size[row]:
            raise OSError("the shard ends early: it was changed while it was in use")
        return data


@dataclass(frozen=True)
class _Shard:
    """Where each sample of a shard lies."""

    path: str
    names: list[str]
    """The image's member; the first member of a sample without an image."""
    spans: np.ndarray
    """int64 [n, 3, 2]: offset and size of the image, the .txt and the .json; the size is -1 where there is none."""
    faults: dict[int, str]
    """Why a sample can't be used, where its members show that, by its number."""


@dataclass
class _Sample:
    """The members of one key in one archive."""

    first: tarfile.TarInfo
    image: tarfile.TarInfo | None = None
    txt: tarfile.TarInfo | None = None
    json: tarfile.TarInfo | None = None
    fault: str = ""

    def add(self, kind: str, member: tarfile.TarInfo) -> None:
        """Adds the member that is the sample's "image", "txt" or "json"."""
        earlier = getattr(self, kind)
        if earlier is not None:
            self.fault = f"its key has {earlier.name} and {member.name}, two for one use: keep one"
        elif not member.isreg() or member.issparse():
            self.fault = f"{member.name} is a link, a device or a sparse file: pack plain files"
        setattr(self, kind, member)

    @property
    def is_complete(self) -> bool:
        """Whether there is an image and a text."""
        return self.image is not None and (self.txt is not None or self.json is not None)


class _Header(tarfile.TarInfo):
    """A member's header; of a plain file's only name and size are read, which takes half the time of reading all."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_Header":
        is_plain = len(buf) == _BLOCK and buf[156:157] == tarfile.REGTYPE and buf[124] < 0x80  # else binary size
        if not is_plain or sum(buf) - sum(buf[148:156]) + 8 * ord(" ") != _octal(buf[148:156]):
            return super().frombuf(buf, encoding, errors)
        header = cls(_string(buf[0:100], encoding, errors))
        header.size = _octal(buf[124:136])
        if prefix := _string(buf[345:500], encoding, errors):
            header.name = f"{prefix}/{header.name}"
        return header


def _octal(digits: bytes) -> int:
    try:
        return int(digits.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise tarfile.HeaderError("a number in a header is none") from None


def _string(data: bytes, encoding: str, errors: str) -> str:
    return data.partition(b"\0")[0].decode(encoding, errors)


def open_tar(files: Sequence[Path], root: Path, columns: Columns) -> Source:
    """The samples of shards, whose names begin at `root`; `columns.image` names the extension of the images.

    A key is a member's name up to the first dot of its last part, as in webdataset. Of .txt and .json, .txt is the
    caption; all fields of the .json are given too.
    """
    extensions = frozenset([columns.image.lower().lstrip(".")]) if columns.image else EXTENSIONS
    shards = [_scan(str(file), extensions) for file in files]
    spans = np.concatenate([np.empty((0, 3, 2), dtype=np.int64), *(shard.spans for shard in shards)])
    numbers = np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard.names) for shard in shards])
    reader = TarReader([shard.path for shard in shards], numbers, spans[:, 0, 0].copy(), spans[:, 0, 1].copy())
    return Source(_records(shards, root, columns), len(numbers), reader)


def _scan(shard: str, extensions: frozenset[str]) -> _Shard:
    """Indexes a shard from its headers; `UserError` where it is damaged or a name leaves the archive."""
    try:
        with open(shard, "rb") as file:
            _refuse_compressed(shard, file.read(_BLOCK))
            samples = [sample for archive in _archives(shard, file) for sample in _group(shard, archive, extensions)]
    except OSError as error:
        raise _unreadable(shard, error) from None
    names: dict[str, None] = {}
    for sample in samples:
        name = (sample.image or sample.first).name
        names[f"{name}@{sample.first.offset}" if name in names else name] = None
    spans = [
        [(member.offset_data, member.size) if member else (0, -1) for member in (sample.image, sample.txt, sample.json)]
        for sample in samples
    ]
    faults = {row: sample.fault for row, sample in enumerate(samples) if sample.fault}
    return _Shard(shard, list(names), np.array(spans, dtype=np.int64).reshape(-1, 3, 2), faults)


def _unreadable(shard: str, error: OSError) -> UserError:
    return UserError(f"{shard} can't be read ({error.strerror or error}): give readable shards.")


def _refuse_compressed(shard: str, start: bytes) -> None:
    for magic, (ending, command) in _COMPRESSED.items():
        if start.startswith(magic):
            path = shlex.quote(shard)
            renamed = shlex.quote(shard + ending)
            is_named = shard.endswith((ending, ending.replace(".", ".t")))  # .tar.gz or .tgz
            unpack = f"{command} {path}" if is_named else f"mv {path} {renamed} && {command} {renamed}"
            raise UserError(f"{shard} is compressed, but shards are read in place: unpack it with `{unpack}`.")


def _archives(shard: str, file: BinaryIO) -> Iterator[tarfile.TarFile]:
    """The archives that a shard is made of: one, or several where `cat` has joined shards. Each must be read at once.

    Raises `UserError` unless each ends in an end mark, behind which only zeros or another archive may follow.
    """
    start: int | None = 0
    while start is not None:
        file.seek(start)
        try:
            archive = tarfile.open(fileobj=file, mode="r:", tarinfo=_Header)  # noqa: SIM115 - it closes no file
        except tarfile.TarError as error:
            raise UserError(
                f"{shard} can't be read as a .tar file ({error}): it is cut off or of another kind; fetch it again."
            ) from None
        yield archive
        end = archive.offset
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            if start == end > 0:
                raise UserError(
                    f"{shard} holds bytes behind its end mark, at {end}, that are no archive: fetch it again."
                )
            raise _cut_off(shard, end)
        start = _skip_zeros(file)


def _cut_off(shard: str, place: int) -> UserError:
    return UserError(
        f"{shard} is cut off or damaged at byte {place}, where the next member or the end mark should be: fetch the "
        "shard again."
    )


def _members(shard: str, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    try:
        for member in archive:
            if member.size < 0:
                raise _cut_off(shard, member.offset)  # it would lead back to where it came from
            yield member
    except tarfile.TarError:
        raise _cut_off(shard, archive.offset) from None


def _skip_zeros(file: BinaryIO) -> int | None:
    """The position of the next byte that is not zero; None where there is none."""
    while chunk := file.read(_CHUNK):
        if rest := chunk.lstrip(b"\0"):
            return file.tell() - len(rest)
    return None


def _group(shard: str, archive: tarfile.TarFile, extensions: frozenset[str]) -> list[_Sample]:
    """The samples of an archive, in the order of their first members; a key without image and text is none."""
    samples: list[_Sample] = []
    current: dict[str, _Sample] = {}
    unread: list[tuple[str, tarfile.TarInfo]] = []
    for member in _members(shard, archive):
        folder, slash, name = member.name.rpartition("/")
        if slash and (not folder or folder.startswith("/") or ".." in member.name.split("/")):
            raise UserError(
                f"The member {member.name} of {shard} has a path that leaves the archive: pack the shard with relative "
                "paths."
            )
        stem, _, extension = name.partition(".")
        extension = extension.lower()
        if not stem or not extension or member.isdir() or "__MACOSX" in folder:
            continue
        key = folder + slash + stem
        kind = "image" if extension in extensions else extension
        if kind == "image" or kind in _TEXTS:
            sample = current.get(key)
            if sample is None or (sample.is_complete and getattr(sample, kind) is not None):  # its key is used again
                samples.append(sample := _Sample(member))
                current[key] = sample
            sample.add(kind, member)
        elif extension.rpartition(".")[2] in extensions.union(_TEXTS):
            unread.append((key, member))
    for key, member in unread:
        if key not in current or not current[key].is_complete:
            samples.append(_Sample(member, fault=f"its name has a second dot, so that its key is {key}: rename it"))
    for sample in samples:
        sample.fault = sample.fault or _lack(sample)
    return samples


def _lack(sample: _Sample) -> str:
    if sample.image is None and sample.json is None:
        return "it has no image beside it"
    if sample.txt is None and sample.json is None:
        return "it has no .txt or .json beside it"
    return ""


def _records(shards: Sequence[_Shard], root: Path, columns: Columns) -> Iterator[Record]:
    for shard in shards:
        label = os.path.relpath(shard.path, root)
        try:
            with open(shard.path, "rb") as file:
                for row, (name, (image, *texts)) in enumerate(zip(shard.names, shard.spans.tolist(), strict=True)):
                    place = f"{label}:{name}"
                    yield _record(file, place, place if image[1] >= 0 else None, texts, shard.faults.get(row), columns)
        except OSError as error:
            raise _unreadable(shard.path, error) from None


def _record(
    file: BinaryIO, place: str, image: str | None, texts: list[list[int]], fault: str | None, columns: Columns
) -> Record:
    fields: Mapping[str, object] = {}
    try:
        if fault:
            raise BadRecord(fault)
        fields = _fields(file, texts[0], texts[1], columns)
        if image is None and not any(fields.get(name) for name in CONVERSATION_FIELDS):
            raise BadRecord("it has no image beside it")
    except BadRecord as error:
        return Record(place, image, fields, error)
    return Record(place, image, fields)


def _fields(file: BinaryIO, txt: list[int], sidecar: list[int], columns: Columns) -> dict[str, object]:
    """What the .json says, with the .txt as its caption; no field that could stand in for an empty .txt."""
    fields: dict[str, object] = {}
    if sidecar[1] >= 0:
        try:
            fields = _parse(_text(file, sidecar, ".json"))
        except BadRecord:
            if txt[1] < 0:  # else the .txt says enough
                raise
    if txt[1] >= 0:
        caption = _text(file, txt, ".txt")
        fields = {
            name: value for name, value in fields.items() if name not in CAPTION_FIELDS or name == columns.caption
        }
        fields["caption"] = caption
    return fields


def _parse(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRecord("its .json is not valid JSON") from None
    if not isinstance(fields, dict):
        raise BadRecord("its .json is no object with fields")
    return fields


def _text(file: BinaryIO, span: list[int], extension: str) -> str:
    offset, size = span
    if size > _LONGEST_TEXT:
        raise BadRecord(f"its {extension} has {size} bytes, too long for a text")
    file.seek(offset)
    try:
        return file.read(size).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRecord(f"its {extension} is not valid UTF-8 text") from None
