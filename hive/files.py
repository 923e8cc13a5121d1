"""Writes small files so that they stay whole, whenever the process dies, and reads JSON lines."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hive.errors import UserError

METRICS, INJECTION = "metrics.jsonl", "injection.jsonl"  # in a run folder


def make_folder(folder: Path) -> None:
    """Makes the folder that --out names, and those above it; `UserError` where that can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {folder} can't be made ({error.strerror}): give a folder that can be written."
        ) from error


def has_surrogate(text: str) -> bool:
    """Whether the text can't be written as UTF-8, nor read by a tokenizer.

    JSON and command lines can hold half a surrogate pair, which is no character.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def replace_text(path: Path, text: str) -> None:
    """Replaces a file's text; whenever the process dies, the file is either the old or the new one, never a part."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Replaces a file's bytes in the same way."""
    replace_files({path: data})


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Replaces files that belong together in the same way; where one can't be written, none is changed.

    Raises `UserError` for a path that is there and is no regular file: a rename would put a file in a device's place.
    """
    for path in contents:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is a folder, a device or a pipe: give the name of a file.")
    new = {path: path.with_name(f".{path.name}.new") for path in contents}
    try:
        for path, data in contents.items():
            with new[path].open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            new[path].replace(path)
    except BaseException:  # Ctrl-C as well
        for path in new.values():
            path.unlink(missing_ok=True)
        raise


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file up to a line that a kill has cut; none where there is no file."""
    return [record for record, _ in _records(path)]


def keep_records(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Truncates a JSON-lines file before the first record that `keep` refuses, or that a kill has cut.

    Nothing is rewritten, so no earlier record can be lost, and a full disk doesn't matter.
    """
    end = 0
    for record, record_end in _records(path):
        if not keep(record):
            break
        end = record_end
    if path.exists() and end < path.stat().st_size:
        os.truncate(path, end)


def _records(path: Path) -> list[tuple[dict[str, Any], int]]:
    """(record, the byte where its line ends) of each whole line."""
    records: list[tuple[dict[str, Any], int]] = []
    end = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        end += len(line)
        records.append((record, end))
    return records
