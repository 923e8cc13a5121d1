"""The captions of a record: which field they are in, and the true reason where there is none."""

import pytest

from hive.data.captions import read_captions
from hive.data.source import BadRecord, Columns, OtherRecord, Record


def read(fields: dict[str, object], column: str | None = None) -> tuple[str, ...]:
    return read_captions(Record("here", "a.png", fields), Columns(caption=column))


def turn(role: str, text: object) -> dict[str, object]:
    return {"from": role, "value": text}


@pytest.mark.parametrize(
    ("fields", "captions"),
    [
        ({"caption": "a", "text": "b", "title": "c"}, ("a",)),
        ({"title": "c", "text": "b"}, ("b",)),
        ({"caption": None, "captions": [], "text": "b"}, ("b",)),
        ({"caption": " \n", "title": "c"}, ("c",)),
        ({"captions": ["a", "b"]}, ("a", "b")),
        ({"caption": ("a", "", None, "b")}, ("a", "b")),
        ({"caption": "a", "conversations": [turn("gpt", "b")]}, ("a",)),
        ({"conversations": [turn("human", "?"), turn("gpt", "b"), turn("gpt", "c")]}, ("b",)),
        ({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "b"}]}, ("b",)),
        ({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "b"}, {"type": "image"}]}]}, ("b",)),
        ({"caption": "  kept as it is\n"}, ("  kept as it is\n",)),
    ],
)
def test_the_first_field_with_a_value(fields: dict[str, object], captions: tuple[str, ...]) -> None:
    assert read(fields) == captions


@pytest.mark.parametrize(
    ("column", "captions"),
    [("title", ("t",)), ("meta.text", ("inner",)), ("talk", ("b",)), ("many", ("x", "y"))],
)
def test_a_column_that_a_flag_names(column: str, captions: tuple[str, ...]) -> None:
    fields: dict[str, object] = {
        "caption": "not this",
        "title": "t",
        "meta": {"text": "inner"},
        "talk": [turn("human", "?"), turn("gpt", "b")],
        "many": ["x", "y"],
    }
    assert read(fields, column) == captions


@pytest.mark.parametrize(
    ("fields", "column", "reason"),
    [
        ({"caption": 3}, None, "its caption is the number 3, not text"),
        ({"caption": 2.5}, None, "its caption is the number 2.5, not text"),
        ({"caption": ["a", 7]}, None, "its caption is the number 7, not text"),
        ({"caption": True}, None, "its caption is true, not text"),
        ({"caption": {"en": "a"}}, None, "its caption is an object, not text"),
        ({"caption": [["a"]]}, None, "its caption is a list, not text"),
        ({"caption": b"a"}, None, "its caption is bytes, not text"),
        ({"caption": "", "text": None}, None, 'its caption is empty (the field "caption")'),
        ({"captions": ["", " "]}, None, 'its caption is empty (the field "captions")'),
        ({"label": "a"}, None, "it has no caption: its fields are label, none of caption, captions, text, title,"),
        ({"caption": "a"}, "meta.text", "it has no caption: its fields are caption, none of meta.text"),
        ({"meta": {"text": ""}}, "meta.text", 'its caption is empty (the field "meta.text")'),
        ({"conversations": [turn("human", "?")]}, None, "its conversation has no answer"),
        ({"conversations": [turn("gpt", "")]}, None, "the first answer of its conversation is empty"),
        ({"conversations": [turn("gpt", 3)]}, None, "a turn says 3, which is no text"),
        ({"caption": "a\ud800"}, None, "half of a surrogate pair"),
    ],
)
def test_the_true_reason(fields: dict[str, object], column: str | None, reason: str) -> None:
    with pytest.raises(BadRecord) as raised:
        read(fields, column)
    assert reason in str(raised.value)
    assert not isinstance(raised.value, OtherRecord)


def test_a_text_without_an_image_is_no_fault() -> None:
    with pytest.raises(OtherRecord, match="no image"):
        read_captions(Record("here", None, {"caption": "a"}), Columns())
