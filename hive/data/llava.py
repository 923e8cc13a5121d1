"""LLaVA's JSON: a list of records with an image path and a conversation or a caption."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive.errors import UserError
from hive.files import has_surrogate

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|data:")


@dataclass(frozen=True)
class FileReader:
    """Reads image files below a root."""

    root: str
    names: list[str]

    def __call__(self, row: int) -> bytes:
        with open(_image_path(self.root, self.names[row]), "rb") as file:
            return file.read()


def open_llava(path: Path, image_root: Path | None) -> tuple[list[str], list[str], FileReader]:
    """(captions, image paths as written, reader) of a LLaVA JSON; `UserError` names the first record at fault."""
    records = load_records(path)
    root = open_root(path, image_root)
    captions: list[str] = []
    names: list[str] = []
    folders = Folders(root)
    for number, record in enumerate(records):
        label = f"Record {number} of {path}"
        if not isinstance(record, dict):
            raise UserError(f"{label} is not an object: each must have an image and a caption or conversations.")
        if "id" in record:
            label += f" (id {record['id']!s:.80})"
        image = record.get("image")
        if not isinstance(image, str) or not image.strip():
            raise UserError(f'{label} has no "image": give it the path of an image, or remove the record.')
        folders.check(image, label)
        captions.append(_caption(record, label))
        names.append(image)
    return captions, names, FileReader(str(root), names)


def open_root(path: Path, image_root: Path | None) -> Path:
    """The folder that a LLaVA JSON's image paths start from: `image_root`, or the JSON's folder.

    Raises `UserError` where it is not a folder.
    """
    root = (image_root or path.parent).expanduser().resolve()
    if not root.is_dir():
        raise UserError(
            f"--image-root {image_root} is not a folder: give the folder that the image paths of {path} start from."
        )
    return root


def load_records(path: Path) -> list[Any]:
    """The records of a LLaVA JSON, unchecked. Raises `UserError` where the file can't be read or holds no list."""
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        hint = ": JSON lines must become one list" if error.msg == "Extra data" else ""
        raise UserError(f"{path} is not valid JSON at line {error.lineno} ({error.msg}){hint}; repair it.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text at byte {error.start}: save it as UTF-8.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a list of records: give a LLaVA JSON.") from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): give a readable LLaVA JSON.") from None
    if not isinstance(records, list):
        raise UserError(
            f"{path} holds {type(records).__name__} at its top, but a LLaVA JSON is a list of records: "
            "wrap the records in [ ]."
        )
    return records


def _caption(record: dict[str, Any], label: str) -> str:
    """The record's caption, or the first turn of the assistant; `UserError` where it has neither."""
    caption = record.get("caption")
    if caption is None:
        turns = record.get("conversations")
        if not isinstance(turns, list):
            raise UserError(f'{label} has neither "caption" nor "conversations": add one, or remove the record.')
        caption = next(
            (
                turn.get("value")
                for turn in turns
                if isinstance(turn, dict) and turn.get("from") in ("gpt", "assistant")
            ),
            None,
        )
        if caption is None:
            raise UserError(f'{label} has no turn from "gpt" or "assistant": add one, or remove the record.')
    if not isinstance(caption, str) or not caption.strip():
        raise UserError(f"{label} has an empty caption: write one, or remove the record.")
    check_characters(caption, label)
    return caption


def check_characters(text: str, label: str) -> None:
    """Raises `UserError` for half of a surrogate pair in a text, which no tokenizer takes."""
    if has_surrogate(text):
        raise UserError(f"{label} has half of a surrogate pair in its text, no character: mend or remove the record.")


def _image_path(root: str, image: str) -> str:
    """The path of an image, `..` resolved by its text alone, so that the path checked is the path read."""
    return os.path.normpath(os.path.join(root, image))


class Folders:
    """Checks image paths, listing each folder once instead of asking for each file."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.listed: dict[str, dict[str, bool] | None] = {}

    def check(self, image: str, label: str) -> None:
        """Raises `UserError` unless the image is a file under the root, after links are followed."""
        if _URL.match(image):
            raise UserError(
                f"{label} has the image {image!s:.200}, a URL, but nothing is fetched while training: "
                "download it and give its path below --image-root."
            )
        path = _image_path(self.root, image)
        if "\0" in image or not self._inside(path):
            raise UserError(self._outside_message(image, label))
        folder, name = os.path.split(path)
        if folder not in self.listed:
            self.listed[folder] = self._list(folder)
        files = self.listed[folder]
        if files is None:
            raise UserError(self._outside_message(image, label))
        if name not in files:
            raise UserError(
                f"{label} has the image {image}, which is not a file below {self.root}: add it, remove the "
                "record, or set --image-root."
            )
        if files[name]:  # a link
            if not self._inside(target := os.path.realpath(path)):
                raise UserError(self._outside_message(image, label))
            if not os.path.isfile(target):
                raise UserError(
                    f"{label} has the image {image}, a link to nothing: restore the file, or remove the record."
                )

    def _inside(self, path: str) -> bool:
        return path.startswith(self.root.rstrip(os.sep) + os.sep)

    def _outside_message(self, image: str, label: str) -> str:
        return (
            f"{label} has the image {image!r:.200}, which leaves the image root {self.root}: only files below it "
            "are read; move the image there, or set --image-root."
        )

    def _list(self, folder: str) -> dict[str, bool] | None:
        """name -> is a link, for the files of a folder; None where the folder, links followed, is outside the root."""
        real = os.path.realpath(folder)
        if real != self.root and not self._inside(real):
            return None
        try:
            with os.scandir(folder) as entries:
                return {
                    entry.name: entry.is_symlink()
                    for entry in entries
                    if entry.is_symlink() or entry.is_file(follow_symlinks=False)
                }
        except OSError:
            return {}
