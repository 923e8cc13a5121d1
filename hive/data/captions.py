"""Captions from the fields of a record."""

from collections.abc import Mapping
from typing import NoReturn

from hive.data.source import CAPTION_FIELDS, CONVERSATION_FIELDS, BadRecord, Columns, OtherRecord, Record, field
from hive.files import has_surrogate

_ANSWERS = ("gpt", "assistant")


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
        raise BadRecord(f"it has no caption: no field {' or '.join(names)}")
    value = values[present]
    if _is_conversation(value):
        return (_first_answer(value),)
    texts = value if isinstance(value, list | tuple) else [value]
    return tuple(_checked(text) for text in texts if not _is_blank(text))


def _is_blank(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_blank(item) for item in value)
    return value is None or value == {} or (isinstance(value, str) and not value.strip())


def _is_conversation(value: object) -> bool:
    return isinstance(value, list | tuple) and any(
        isinstance(turn, Mapping) and ("from" in turn or "role" in turn) for turn in value
    )


def _first_answer(turns: object) -> str:
    assert isinstance(turns, list | tuple)
    for turn in turns:
        if isinstance(turn, Mapping) and turn.get("from", turn.get("role")) in _ANSWERS:
            answer = turn.get("value", turn.get("content"))
            if isinstance(answer, list | tuple):  # parts: {"type": "text", "text": "a cat"}
                parts = [part.get("text") if isinstance(part, Mapping) else part for part in answer]
                answer = " ".join(part for part in parts if isinstance(part, str))
            if _is_blank(answer):
                raise BadRecord("the first answer of its conversation is empty")
            return _checked(answer)
    raise BadRecord(f"its conversation has no answer (no turn from {' or '.join(_ANSWERS)})")


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
