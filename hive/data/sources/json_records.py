"""Records in JSON: LLaVA's list, JSON lines, COCO's captions, or an object around one list."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from hive.data.source import CAPTION_FIELDS, CONVERSATION_FIELDS, IMAGE_FIELDS, BadRecord, Columns, Source
from hive.data.sources.image_store import ImageStore
from hive.data.sources.path_records import Entry, open_files, text_encoding
from hive.errors import UserError

LINES = (".jsonl", ".ndjson")
_RECORD_FIELDS = {*IMAGE_FIELDS, *CAPTION_FIELDS, *CONVERSATION_FIELDS}
_CHUNK = 4 << 20  # characters of a list that are held at a time
_skip_space = re.compile(r"[ \t\n\r]*").match
_decode = json.JSONDecoder().raw_decode


def open_json(files: Sequence[Path], images: ImageStore, columns: Columns) -> Source:
    """The records of JSON files, in order. Raises `UserError` for a file that as a whole is no JSON of records."""
    return open_files(files, read_json, images, columns)


def read_json(path: Path, name: str) -> Iterator[Entry]:
    """The records of one JSON file, whose places begin with `name`. A line that is broken is a bad record."""
    try:
        # A byte that is not UTF-8 spoils the text that it is in, not the file.
        with path.open(encoding=text_encoding(path), errors="surrogateescape") as file:
            start = _first_lines(file)
            file.seek(0)
            if not start:
                return  # an empty file has no record
            if start == ["["]:
                yield from _numbered(_read_list(path, file), f"{name} record")
            elif _are_lines(path, start):
                yield from _read_lines(file, name)
            else:
                yield from _read_document(path, _load(path), name)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error}): give a readable file.") from None


def _first_lines(file: TextIO) -> list[str]:
    """The first two lines that are not blank; "[" alone where a list begins, which may be one long line."""
    lines: list[str] = []
    while len(lines) < 2:
        start = file.read(1)
        if not start:
            break
        if start.isspace():
            continue
        if start == "[" and not lines:
            return ["["]
        lines.append(start + file.readline())
    return lines


def _are_lines(path: Path, start: Sequence[str]) -> bool:
    """Whether each line is a record of its own, by the first two lines.

    One line alone may be an object around a list, and an object may be written over many lines.
    """
    whole = [_parse_object(line) for line in start]
    if len(start) < 2 and whole[0] is not None:
        return not _is_document(whole[0]) and (_is_record(whole[0]) or path.suffix.lower() in LINES)
    return path.suffix.lower() in LINES or any(record is not None for record in whole)


def _parse_object(line: str) -> Mapping[str, object] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _is_document(value: Mapping[str, object]) -> bool:
    """Whether an object is around a list of records, rather than a record."""
    lists = _lists(value)
    records = {"images"} & {*lists}  # a record may have that field too, with names of images
    return _is_coco(value) or (bool(lists) and not value.keys() & (_RECORD_FIELDS - records))


def _is_record(value: Mapping[str, object]) -> bool:
    return bool(value.keys() & _RECORD_FIELDS)


def _is_coco(value: Mapping[str, object]) -> bool:
    return isinstance(value.get("images"), list) and isinstance(value.get("annotations"), list)


def _lists(value: Mapping[str, object]) -> list[str]:
    """The fields that are lists of objects."""
    return [name for name, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]


def _read_lines(file: TextIO, name: str) -> Iterator[Entry]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        place = f"{name} line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            yield Entry(place, {}, BadRecord(f"the line is no valid JSON ({error.msg} at column {error.colno})"))
        except RecursionError:
            yield Entry(place, {}, BadRecord("the line is nested too deeply"))
        else:
            yield _entry(place, record)


def _numbered(records: Iterable[object], place: str) -> Iterator[Entry]:
    for number, record in enumerate(records):
        yield _entry(f"{place} {number}", record)


def _entry(place: str, record: object) -> Entry:
    if not isinstance(record, dict):
        return Entry(place, {}, BadRecord("it is no object with an image and a text"))
    number = record.get("id")
    return Entry(place if number is None else f"{place} (id {number!s:.80})", record)


def _read_list(path: Path, file: TextIO) -> Iterator[object]:
    """The items of a JSON list, of which a few MB are held at a time."""
    text, at, first = file.read(_CHUNK), 0, True
    at = text.index("[") + 1
    while True:
        try:
            start = _skip_space(text, at).end()  # type: ignore[union-attr]  # it matches everywhere
            if first and text[start] == "]":
                end, mark, items = start, "]", []
            else:
                item, end = _decode(text, start)
                end = _skip_space(text, end).end()  # type: ignore[union-attr]
                mark, items = text[end], [item]  # only what follows shows that a number was read to its end
        except (json.JSONDecodeError, IndexError):
            more = file.read(max(_CHUNK, len(text) - at))
            if not more:
                _refuse_broken(path)
            text, at = text[at:] + more, 0
            continue
        except RecursionError:
            _refuse_broken(path)
        yield from items
        first = False
        if mark == "]" and not text[end + 1 :].strip() and not file.read().strip():
            return
        if mark != ",":
            _refuse_broken(path)
        at = end + 1


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding=text_encoding(path), errors="surrogateescape"))
    except (ValueError, RecursionError):
        _refuse_broken(path)


def _refuse_broken(path: Path) -> NoReturn:
    """Says where a file stops being JSON; it is read once more as a whole, since positions in a part mean nothing."""
    try:
        json.loads(path.read_text(encoding=text_encoding(path), errors="surrogateescape"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is no valid JSON at line {error.lineno}, column {error.colno} ({error.msg}): repair it, or fetch "
            "it again if it was cut off."
        ) from None
    except RecursionError:
        pass
    raise UserError(f"{path} is nested too deeply to be a list of records: give records with an image and a text.")


def _read_document(path: Path, document: object, name: str) -> Iterator[Entry]:
    """The records in an object around a list; `UserError` where it isn't plain which list has them."""
    if not isinstance(document, dict):
        raise UserError(
            f"{path} holds {json.dumps(document)[:40]} at its top: give a list of records, a record a line, or COCO's "
            "captions."
        )
    if _is_coco(document):
        yield from _read_coco(document["images"], document["annotations"], name)
        return
    lists = _lists(document)
    if _is_document(document):
        if len(lists) > 1:
            raise UserError(
                f"{path} holds the lists {', '.join(lists)}, but records are read from one: give a file with one of "
                "them."
            )
        yield from _numbered(document[lists[0]], f"{name} {lists[0]}")
    elif _is_record(document):  # over several lines
        yield from _numbered([document], f"{name} record")
    else:
        raise UserError(
            f"{path} holds an object with the fields {', '.join(document):.100}, which is neither a record nor around "
            'a list of records: give a list of records such as {"image": "0.jpg", "caption": "a cat"}.'
        )


def _read_coco(images: Sequence[Any], annotations: Sequence[Any], name: str) -> Iterator[Entry]:
    """A record an annotation, with the fields of its image; then the images that have none."""
    bare = {str(image.get("id")): image for image in images if isinstance(image, dict)}
    described = set()
    for number, annotation in enumerate(annotations):
        entry = _entry(f"{name} annotation {number}", annotation)
        if entry.fault is None:
            key = str(annotation.get("image_id"))
            described.add(key)
            fault = None if key in bare else BadRecord(f'its image {key:.80} is not in "images"')
            entry = entry._replace(fields={**bare.get(key, {}), **annotation}, fault=fault)
        yield entry
    for key, image in bare.items():
        if key not in described:
            yield _entry(f"{name} image", image)._replace(fault=BadRecord("the image has no annotation"))
