"""Records of files that name images by path: what is in the record's field, and whether the image is there."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hive.data.source import (
    CONVERSATION_FIELDS,
    IMAGE_FIELDS,
    BadRecord,
    Columns,
    OtherRecord,
    Record,
    Source,
    field,
    first_field,
)
from hive.data.sources.image_store import ImageStore, MissingImage
from hive.errors import UserError

_NEARLY_ALL = (
    0.9  # of the records without another fault: if the images of more are missing, they are looked for in a wrong place
)


class Entry(NamedTuple):
    """A record as its file has it."""

    place: str
    fields: Mapping[str, object]
    fault: BadRecord | None = None
    """Why it can't be used, whatever its image is."""
    folder: str = ""
    """Where the path of its image starts, below the root of the images."""


@dataclass(frozen=True)
class PathReader:
    """Reads images by their names in a store."""

    images: ImageStore
    names: Sequence[str]

    def __call__(self, row: int) -> bytes:
        return self.images.read(self.names[row])


def open_files(
    files: Sequence[Path], read_file: Callable[[Path, str], Iterable[Entry]], images: ImageStore, columns: Columns
) -> Source:
    """The source of the entries of files, in order; `read_file` takes a file and its name for places and messages."""
    root = os.path.commonpath([file.absolute().parent for file in files])
    names = [os.path.relpath(file.absolute(), root) for file in files]  # they don't say where the data set is

    def read() -> Iterator[Entry]:
        for file, name in zip(files, names, strict=True):
            yield from read_file(file, name)

    what = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")

    def suggest(image: str) -> str:
        if len({file.parent for file in files}) == 1:
            return f"{what}; {images.suggest(image)}"
        cure = "write a mixture (.toml) that gives each file its image_root"
        return f"{what}; if the paths in each file start from another folder, {cure}, else set --image-root"

    return open_entries(read, images, columns, suggest)


def open_entries(
    read: Callable[[], Iterable[Entry]],
    images: ImageStore,
    columns: Columns,
    suggest: Callable[[str], str],
    names: Sequence[str] = (),
) -> Source:
    """The source of the entries that `read` gives, the same ones each time.

    They are read twice, now for their images and later for their texts, so that a large file is never held. `names` are
    fields that come before `IMAGE_FIELDS`. Raises `UserError` for an image that leaves the store, and where nearly all
    images are missing: `suggest` is given one of them and ends the sentence.
    """
    paths: list[str] = []
    faults: dict[int, BadRecord] = {}
    missing, faulty, example = 0, 0, ""
    for row, entry in enumerate(read()):
        paths.append("")
        try:
            if entry.fault is not None:
                raise entry.fault
            path = image_path(find_images(entry.fields, columns, names))
            if path:
                paths[row] = os.path.join(entry.folder, path)
                paths[row] = images.find(paths[row])
        except MissingImage as error:
            missing, example = missing + 1, example or paths[row]
            faults[row] = error.with_traceback(None)  # it would keep this function's locals
        except BadRecord as error:
            faulty += 1
            faults[row] = error.with_traceback(None)
        except UserError as error:
            raise UserError(f"{entry.place}: {error}.") from None
    if missing > _NEARLY_ALL * (len(paths) - faulty):
        raise UserError(
            f"The images of {missing} of {len(paths) - faulty} records are missing, such as {example:.200} of "
            f"{suggest(example)}."
        )

    def records() -> Iterator[Record]:
        for row, entry in enumerate(read()):
            yield Record(entry.place, paths[row] or None, entry.fields, faults.get(row))

    return Source(records(), len(paths), PathReader(copy.copy(images), paths))  # the copy is without lists of files


def find_images(fields: Mapping[str, object], columns: Columns, names: Sequence[str] = ()) -> object:
    """What a record says of its image: the value of a field, or the images that parts of its turns name."""
    if columns.image is not None:
        return field(fields, columns.image)
    value = first_field(fields, (*names, *IMAGE_FIELDS))
    return _images_of_turns(first_field(fields, CONVERSATION_FIELDS)) if value is None else value


def image_path(value: object) -> str:
    """The path that a record's image is given by: a text, an object with a path, or a list of one; "" without an image.

    Raises `BadRecord` for anything else, and `OtherRecord` for several images.
    """
    if isinstance(value, list | tuple):
        images = [image for image in value if image not in (None, "", {})]
        if len(images) > 1:
            raise OtherRecord(f"has {len(images)} images, but a pair has one")
        value = images[0] if images else None
    if isinstance(value, Mapping):
        inner = first_field(value, IMAGE_FIELDS)
        value = value if inner is None else inner
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRecord(f"its image is no path: {value!r:.80}")
    return value if value.strip() else ""


def _images_of_turns(turns: object) -> list[object]:
    """The images of parts such as {"type": "image", "image": PATH} or {"type": "image_url", "image_url": {"url": ..}}.

    Parts that mark an image without naming it give none.
    """
    found = []
    for turn in turns if isinstance(turns, list) else ():
        parts = turn.get("content") if isinstance(turn, Mapping) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, Mapping) and str(part.get("type")).startswith("image"):
                image = part.get("image_url", first_field(part, IMAGE_FIELDS))
                found.append(image.get("url") if isinstance(image, Mapping) and "url" in image else image)
    return [image for image in found if image is not None]


def text_encoding(path: Path) -> str:
    """UTF-8, or UTF-16 where the file says so, as Windows' programs write it. OSError where it can't be read."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
