"""Where an export goes: written beside its place, and put there once it is whole; nobody else's files are replaced."""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hive.errors import UserError

SEAL = "hive.seal"
"""In the metadata of an export's weights: `seal` of the folder. It tells an export from anything else, and an export
that somebody has changed since, such as a model card written by hand, from one that may be replaced."""


def seal(folder: Path) -> str:
    """SHA-256 over the names and contents of all files in a folder but its weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix != ".safetensors" or path.is_symlink():
            regular = path.is_file() and not path.is_symlink()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if regular else "-"
            digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def read_metadata(folder: Path) -> dict[str, str]:
    """The metadata of the weights in a folder; empty where there are none that can be read."""
    try:
        with safe_open(min(folder.glob("*.safetensors")), framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError, ValueError):  # ValueError: there is no such file
        return {}


def may_replace(folder: Path) -> bool:
    """Whether an export may be put here: there is nothing, an empty folder, or an export that nobody has changed."""
    if not os.path.lexists(folder):
        return True
    if folder.is_symlink() or not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return False
    if not any(folder.iterdir()):
        return True
    sealed = read_metadata(folder).get(SEAL)
    return sealed is not None and sealed == seal(folder)


def free_place(folder: Path) -> Path:
    """`folder`, or where that holds something else the first of `folder`-2, `folder`-3, ... that does not."""
    if may_replace(folder):
        return folder
    beside = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(path for path in beside if may_replace(path))


@contextmanager
def replacing(folder: Path, what: str) -> Iterator[Path]:
    """Gives a new folder to write in, which takes the place of `folder` at the end; after an error nothing is changed.

    `what` begins the `UserError` that is raised where `folder` holds something else or can't be written.
    """
    if not may_replace(folder):
        raise UserError(f"{folder} holds something else than an export: move it away or choose another --out.")
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        _replace(folder, temporary)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{what} could not be exported to {folder} ({error}): make room there or choose another --out."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file that is the same for the same weights and metadata, with the rights of other files.

    The library writes metadata in a random order, and lets nobody but the owner read the file.
    """
    save_file(dict(weights), path, metadata=dict(metadata))
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes `value` as JSON, sorted and indented as transformers writes its files."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _replace(folder: Path, temporary: Path) -> None:
    """Renames the new export from `temporary` to `folder`; if that fails, an older export is in `folder` as before.

    Afterwards removes what earlier exports left beside it.
    """
    if folder.exists():
        older = temporary.with_name(f"{temporary.name}-older")
        os.rename(folder, older)
        try:
            os.rename(temporary, folder)
        except OSError:
            os.rename(older, folder)
            raise
    else:
        os.rename(temporary, folder)
    leftover = re.compile(rf"\.{re.escape(folder.name)}-[0-9a-f]{{8}}(-older)?")  # also that of a killed process
    for path in folder.parent.iterdir():
        if leftover.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
