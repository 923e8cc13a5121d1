"""webdataset shards: .tar files with KEY.jpg, .jpeg, .png or .webp beside KEY.txt or KEY.json."""

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from hive.data.source import BadRecord, Columns, Record, Source
from hive.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp")
TEXTS = ("txt", "json")
_LONGEST_TEXT = 1 << 20  # bytes; a longer sidecar is no caption
_BLOCK = 512


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


def open_tar(files: Sequence[Path], root: Path, columns: Columns) -> Source:
    """The pairs of shards, in the order of the images. Raises `UserError` for a shard that can't be read.

    Places are paths below `root` with the member's name. A text is the field "caption", or what a .json member holds.
    """
    records: list[Record] = []
    places: list[tuple[int, int, int]] = []
    for number, path in enumerate(files):
        name = os.path.relpath(path, root)
        for member, image, fields, fault in _scan(str(path)):
            place = f"{name}:{member.name}"
            records.append(Record(place, place if image else None, fields, fault))
            places.append((number, member.offset_data, member.size))
    table = np.array(places, dtype=np.int64).reshape(-1, 3)
    reader = TarReader(
        [str(path) for path in files], table[:, 0].astype(np.int32), table[:, 1].copy(), table[:, 2].copy()
    )
    return Source(records, len(records), reader)


def _scan(shard: str) -> Iterator[tuple[tarfile.TarInfo, bool, dict[str, object], BadRecord | None]]:
    """(member, whether it is an image, its fields, what is wrong with it) of each key, in the order of the images."""
    images: dict[str, tarfile.TarInfo] = {}
    texts: dict[str, tarfile.TarInfo] = {}
    try:
        with open(shard, "rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise UserError(f"{shard} is compressed by gzip, but shards are read in place: unpack it with gunzip.")
            file.seek(0)
            end = 0
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                    if member.isdir():
                        continue
                    _check_member(shard, member)
                    key, _, extension = member.name.rpartition(".")
                    group = images if extension.lower() in IMAGES else texts
                    if key in group and {extension.lower(), _extension(group[key])} != set(TEXTS):
                        _refuse(shard, member, f"repeats the key of {group[key].name}", "keep one file of each kind")
                    if key not in group or extension.lower() == "txt":  # of txt and json, txt is used
                        group[key] = member
            file.seek(end)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise UserError(
                    f"{shard} is cut off or damaged at byte {end}, where the next member or the end mark "
                    "should be: fetch the shard again."
                )
            for key, member in images.items():
                if key not in texts:
                    yield member, True, {}, BadRecord("the image has no text: no .txt or .json of its key")
                    continue
                try:
                    yield member, True, _fields(file, texts[key]), None
                except BadRecord as fault:
                    yield member, True, {}, fault
            for key, member in texts.items():
                if key not in images:
                    yield member, False, {}, BadRecord(f"the text has no image of its key ({', '.join(IMAGES)})")
    except tarfile.TarError as error:
        raise UserError(
            f"{shard} can't be read as a .tar file ({error}): it is cut off or of another kind; fetch the shard again."
        ) from None
    except OSError as error:
        raise UserError(f"{shard} can't be read ({error.strerror or error}): give readable shards.") from None


def _extension(member: tarfile.TarInfo) -> str:
    return member.name.rpartition(".")[2].lower()


def _check_member(shard: str, member: tarfile.TarInfo) -> None:
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts:
        _refuse(shard, member, "has a path that leaves the archive", "pack the shard with relative paths")
    if not member.isreg() or member.issparse():
        _refuse(shard, member, "is a link, device or sparse file", "pack plain files only")
    if "." not in parts[-1] or _extension(member) not in IMAGES + TEXTS:
        _refuse(shard, member, f"is none of the expected kinds ({', '.join(IMAGES + TEXTS)})", "remove it")


def _fields(file: BinaryIO, member: tarfile.TarInfo) -> dict[str, object]:
    if member.size > _LONGEST_TEXT:
        raise BadRecord(f"its text has {member.size} bytes, too long for a caption")
    file.seek(member.offset_data)
    try:
        text = file.read(member.size).decode("utf-8-sig")
        record: object = json.loads(text) if _extension(member) == "json" else {"caption": text}
    except (ValueError, RecursionError):
        raise BadRecord("its text is not valid UTF-8 text or JSON") from None
    return record if isinstance(record, dict) else {}


def _refuse(shard: str, member: tarfile.TarInfo, fault: str, cure: str) -> NoReturn:
    raise UserError(f"The member {member.name} of {shard} {fault}: {cure}.")
