"""webdataset shards: .tar files with KEY.jpg, .jpeg, .png or .webp beside KEY.txt or KEY.json."""

import glob
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from hive.errors import UserError
from hive.files import has_surrogate

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


def open_tar(data: str) -> tuple[list[str], list[str], TarReader]:
    """(captions, shard:member names, reader) of a shard, a folder or a glob; `UserError` names the member at fault."""
    shards = _find_shards(data)
    root = os.path.commonpath([os.path.dirname(shard) for shard in shards])
    captions: list[str] = []
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    for number, shard in enumerate(shards):
        for member, caption in _scan(shard):
            captions.append(caption)
            names.append(f"{os.path.relpath(shard, root)}:{member.name}")
            places.append((number, member.offset_data, member.size))
    table = np.array(places, dtype=np.int64).reshape(-1, 3)
    return captions, names, TarReader(shards, table[:, 0].astype(np.int32), table[:, 1].copy(), table[:, 2].copy())


def _find_shards(data: str) -> list[str]:
    source = Path(data).expanduser()
    if source.is_dir():
        shards = sorted(str(path) for path in source.iterdir() if path.suffix.lower() == ".tar")
        if not shards:
            raise UserError(
                f"--data {data} is a folder without .tar files: give a folder of webdataset shards "
                "(unpacked: .tar, not .tar.gz), or a LLaVA JSON, or a .parquet file."
            )
    elif source.exists():
        shards = [str(source)]
    else:
        shards = sorted(glob.glob(str(source), recursive=True))
        if not shards:
            raise UserError(f"--data {data} matches no file: give the path or glob of existing .tar shards.")
        if other := next((shard for shard in shards if not shard.lower().endswith(".tar")), None):
            raise UserError(f"--data {data} also matches {other}, which is no .tar file: narrow the glob.")
    return shards


def _scan(shard: str) -> list[tuple[tarfile.TarInfo, str]]:
    """(image member, caption) of each key, in the order of the images."""
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
            captions = {key: _caption(shard, file, member) for key, member in texts.items() if key in images}
    except tarfile.TarError as error:
        raise UserError(
            f"{shard} can't be read as a .tar file ({error}): it is cut off or of another kind; fetch the shard again."
        ) from None
    except OSError as error:
        raise UserError(f"{shard} can't be read ({error.strerror or error}): give readable shards.") from None
    if lone := next((key for key in images if key not in texts), None):
        _refuse(shard, images[lone], "has no caption", "add its .txt or .json, or remove it")
    if lone := next((key for key in texts if key not in images), None):
        _refuse(shard, texts[lone], "has no image", f"add one ({', '.join(IMAGES)}), or remove it")
    return [(member, captions[key]) for key, member in images.items()]


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


def _caption(shard: str, file: BinaryIO, member: tarfile.TarInfo) -> str:
    if member.size > _LONGEST_TEXT:
        _refuse(shard, member, f"has {member.size} bytes, too long for a caption", "shorten it, or remove the key")
    file.seek(member.offset_data)
    try:
        text: object = file.read(member.size).decode("utf-8-sig")
        if _extension(member) == "json":
            record = json.loads(str(text))
            text = record.get("caption") if isinstance(record, dict) else None
    except (ValueError, RecursionError):
        _refuse(shard, member, "is not valid UTF-8 text or JSON", "repair it, or remove the key")
    if not isinstance(text, str) or not text.strip():
        _refuse(shard, member, "holds no caption, or an empty one", "write one, or remove the key")
    if has_surrogate(text):
        _refuse(shard, member, "has half of a surrogate pair in its text, no character", "repair it, or remove the key")
    return text


def _refuse(shard: str, member: tarfile.TarInfo, fault: str, cure: str) -> NoReturn:
    raise UserError(f"The member {member.name} of {shard} {fault}: {cure}.")
