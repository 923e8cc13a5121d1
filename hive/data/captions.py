"""Captions from the fields of a record."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

from hive.data.source import CAPTION_FIELDS, CONVERSATION_FIELDS, BadRecord, Columns, OtherRecord, Record, field
from hive.data.turns import IMAGE, Turn, read_turns
from hive.files import has_surrogate


def read_captions(record: Record, columns: Columns) -> tuple[str, ...]:
    """The captions of a record, at least one, none of them empty.

    They are in the column that a flag names; else in the first of `CAPTION_FIELDS` with a value; else the caption is
    the first answer of a conversation. Raises `OtherRecord` for a record without an image, and `BadRecord` for one
    without a usable caption.
    """
    if record.image is None:
        raise OtherRecord("it has no image, and pre-training needs one")
    names = (columns.caption,) if columns.caption is not None else (*CAPTION_FIELDS, *CONVERSATION_FIELDS)
    values = {name: field(record.fields, name) for name in names}
    present = next((name for name in names if not _is_blank(values[name])), None)
    if present is None:
        if empty := next((name for name in names if name in record.fields or values[name] is not None), None):
            raise BadRecord(f'its caption is empty (the field "{empty}")')
        given = ", ".join(map(str, record.fields)) or "none"
        raise BadRecord(f"it has no caption: its fields are {given:.120}, none of {', '.join(names)}")
    value = values[present]
    turns = read_turns(value)
    if turns is not None:
        return (_first_answer(turns),)
    texts = value if isinstance(value, list | tuple) else [value]
    return tuple(_checked(text) for text in texts if not _is_blank(text))


def _is_blank(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_blank(item) for item in value)
    return value is None or value == {} or (isinstance(value, str) and not value.strip())


def _first_answer(turns: Sequence[Turn]) -> str:
    answer = next((text for role, text in turns if role == "assistant"), None)
    if answer is None:
        raise BadRecord("its conversation has no answer")
    answer = answer.replace(IMAGE, "").strip()
    if not answer:
        raise BadRecord("the first answer of its conversation is empty")
    return answer


def _checked(text: object) -> str:
    if not isinstance(text, str):
        _refuse(text)
    if has_surrogate(text):
        raise BadRecord("its caption is not text throughout: bytes that are not UTF-8, or half of a surrogate pair")
    return text


def _refuse(value: object) -> NoReturn:
    if isinstance(value, bool):
        raise BadRecord(f"its caption is {str(value).lower()}, not text")
    if isinstance(value, int | float):
        raise BadRecord(f"its caption is the number {value}, not text")
    kind = "an object" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else type(value).__name__
    raise BadRecord(f"its caption is {kind}, not text")
