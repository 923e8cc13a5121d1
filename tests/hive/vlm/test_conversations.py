"""Conversations as people have them: forms of turns and marks, kinds of sources, and what is no conversation."""

import json
from pathlib import Path

import pytest

from hive.config import DataConfig
from hive.data.source import BadRecord, Columns, Record
from hive.data.templates import DESCRIBE
from hive.vlm.conversations import open_conversations, read_conversation, turns
from tests.support.pairs_on_the_spot import encoded
from tests.support.tiny_chats import make_set, said

UNNAMED = Columns()
ASK, ANSWER = ("user", "<image>\nWhat?"), ("assistant", "A cat.")


def read(fields: dict, image: str | None = "0.jpg", columns: Columns = UNNAMED) -> list[list[tuple[str, str]]]:
    return [turns(text) for text in read_conversation(Record("d.json record 0", image, fields), columns)]


def talk(*texts: tuple[str, str], image: str | None = "0.jpg") -> list[tuple[str, str]]:
    (conversation,) = read({"conversations": said(list(texts))}, image)
    return conversation


def parts(*content: object) -> dict:
    return {"role": "user", "content": list(content)}


QUESTION, TEXT, PICTURE = {"role": "user", "content": "What?"}, {"type": "text", "text": "What?"}, {"type": "image"}
REPLY = {"role": "assistant", "content": "A cat."}


@pytest.mark.parametrize(
    "fields",
    [
        {"conversations": said([("human", "<image>\nWhat?"), ("gpt", "A cat.")])},
        {"conversations": said([("Human", "What?"), ("GPT", " A cat.\n")])},
        {"conversations": said([("user", "What?\n<image>"), ("assistant", "A cat.")])},
        {"messages": [QUESTION, REPLY]},
        {"conversations": [QUESTION, REPLY]},
        {"conversations": [], "messages": [QUESTION, {"role": "model", "content": "A cat."}]},
        {"messages": [parts(PICTURE, TEXT), REPLY]},
        {"messages": [parts(TEXT, PICTURE), {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]},
        {"messages": [parts({"type": "image", "image": "0.jpg", "text": None}, TEXT), REPLY]},
        {"messages": [parts({"type": "image_url", "image_url": {"url": "0.jpg"}}, "What?"), REPLY]},
        {"messages": json.dumps([QUESTION, REPLY])},
        {"conversations": {"from": ["human", "gpt"], "value": ["<image>\nWhat?", "A cat."]}},
        {"caption": "not this", "messages": [QUESTION, REPLY]},
    ],
)
def test_forms_of_turns(fields: dict) -> None:
    assert read(fields) == [[ASK, ANSWER]]


@pytest.mark.parametrize(
    ("said_", "conversation"),
    [
        ([("gpt", "Hi!"), ("human", "What?"), ("gpt", "A cat."), ("human", "Why?")], [ASK, ANSWER]),
        ([("gpt", "Hi!"), ("gpt", "Ask me."), ("human", "What?"), ("gpt", "A cat.")], [ASK, ANSWER]),
        ([("human", "<image>"), ("human", "What?"), ("gpt", "A"), ("gpt", "cat.")], [ASK, ("assistant", "A\ncat.")]),
        ([("system", "Be brief."), ("human", "What?"), ("gpt", "A cat.")], [("system", "Be brief."), ASK, ANSWER]),
        (
            [("gpt", "Hi!"), ("system", "Be"), ("system", "brief."), ("human", "What?"), ("gpt", "A cat.")],
            [("system", "Be\nbrief."), ASK, ANSWER],
        ),
        ([("system", " "), ("human", "What?"), ("gpt", "A cat.")], [ASK, ANSWER]),
    ],
)
def test_orders_of_turns(said_: list[tuple[str, str]], conversation: list[tuple[str, str]]) -> None:
    assert talk(*said_) == conversation


@pytest.mark.parametrize(
    ("said_", "conversation"),
    [
        (["<image>\nA", "b", "<image>\nC", "d"], ["<image>\nA", "b", "C", "d"]),
        (["A", "b", "C <image>", "d"], ["A", "b", "<image>\nC", "d"]),
        (["A <image> z", "b", "C", "d"], ["<image>\nA  z", "b", "C", "d"]),
        (["<image><image>\nA", "b", "C", "d"], ["<image>\nA", "b", "C", "d"]),
        (["A", "<image>\nb", "C", "d"], ["<image>\nA", "b", "C", "d"]),
        (["A", "b", "C", "d"], ["<image>\nA", "b", "C", "d"]),
        (["<image>", "b", "C", "d"], ["<image>\n", "b", "C", "d"]),
    ],
)
def test_marks_of_an_image(said_: list[str], conversation: list[str]) -> None:
    """Written twice, behind, inside, in an answer, or not at all."""
    speakers = ("human", "gpt", "human", "gpt")
    assert [text for _, text in talk(*zip(speakers, said_, strict=True))] == conversation


def test_without_an_image() -> None:
    literal = [("user", "Is <image> a tag?"), ("assistant", "<image>\nis none.")]
    assert talk(("human", literal[0][1]), ("gpt", literal[1][1]), image=None) == literal
    for question in ("<image>\nWhat?", "What?\n <image> ", "a\n<image>\nb"):
        with pytest.raises(BadRecord, match=r"shows an image .* has none"):
            talk(("human", question), ("gpt", "x"), image=None)
    with pytest.raises(BadRecord, match="shows an image"):
        read({"messages": [parts(PICTURE, TEXT), REPLY]}, None)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "it has no caption"),
        ({"conversations": "hello"}, "no list of turns"),
        ({"conversations": ["a", "b"]}, "no list of turns"),
        (
            {"conversations": said([("human", "x"), ("robot", "y")])},
            "a turn is from 'robot', but the speakers are human",
        ),
        ({"conversations": [{"from": ["gpt"], "value": "x"}]}, r"from \['gpt'\]"),
        ({"conversations": [{"value": "x"}]}, "no list of turns"),
        ({"conversations": [{"from": "human", "value": 3}]}, "says 3, which is no text"),
        ({"messages": [parts({"type": "video", "video": "0.mp4"}), REPLY]}, "neither text nor image"),
        ({"messages": [QUESTION, {"role": "assistant", "content": None}]}, "says None"),
        ({"conversations": said([("human", "x\ud800"), ("gpt", "y")])}, "UTF-8"),
        ({"conversations": said([("human", "x")])}, "no question of it is followed by an answer"),
        ({"conversations": said([("gpt", "x")])}, "no question"),
        ({"conversations": said([("system", "x")])}, "no question"),
        ({"conversations": said([("human", "x"), ("system", "s"), ("gpt", "y")])}, "system turn stands behind"),
        ({"conversations": said([("human", "x"), ("gpt", " \n"), ("human", "z"), ("gpt", "y")])}, "an answer is empty"),
        ({"conversations": said([("human", "x"), ("gpt", "<image>")])}, "an answer is empty"),
    ],
)
def test_what_is_no_conversation(fields: dict, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        read(fields)


def test_captions_answer_a_question() -> None:
    asked = ("user", f"<image>\n{DESCRIBE}")
    assert read({"title": "A cat."}) == [[asked, ANSWER]]
    assert read({"alt": "A cat.", "messages": [QUESTION, REPLY]}, columns=Columns(caption="alt")) == [[asked, ANSWER]]
    assert read({"chat": [QUESTION, REPLY]}, columns=Columns(caption="chat")) == [[ASK, ANSWER]]
    with pytest.raises(BadRecord, match="neither a conversation nor an image with a caption"):
        read({"caption": "A cat."}, None)


def test_a_system_field() -> None:
    assert read({"system": "Be brief.", "messages": [QUESTION, REPLY]}) == [[("system", "Be brief."), ASK, ANSWER]]


# -------------------------------------------------------------------------------------------------------- the sources


def opened(data: Path, root: Path | None = None) -> list[tuple[bool, list[tuple[str, str]]]]:
    """(has an image, turns) of each conversation of a source."""
    pairs = open_conversations(str(data), root, DataConfig(), "--data")
    return [(pairs.has_image(index), turns(pairs.captions[index])) for index in range(len(pairs))]


def test_llava_json(tmp_path: Path) -> None:
    path = make_set(tmp_path)
    pairs = open_conversations(str(path), None, DataConfig(), "--data")
    assert len(pairs) == 40
    assert turns(pairs.captions[0])[:2] == [("system", "Be brief."), ("user", "<image>\nWhat is this?")]
    assert turns(pairs.captions[2])[0] == ("user", "<image>\nWhat is this?")  # from the question's end to its start
    assert turns(pairs.captions[35]) == [("user", "5 + 1?"), ("assistant", "6")]
    assert [pairs.has_image(index) for index in (0, 29, 30, 39)] == [True, True, False, False]
    assert pairs.read(3) == (tmp_path / "3.png").read_bytes()


def test_every_kind_of_source(tmp_path: Path) -> None:
    """The same picture and answer: LLaVA's list, lines, a table, COCO's captions, a folder."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "0.jpg").write_bytes(encoded(0, "JPEG"))
    chat = {"image": "0.jpg", "messages": [QUESTION, REPLY]}
    coco = {"images": [{"id": 1, "file_name": "0.jpg"}], "annotations": [{"image_id": 1, "caption": "A cat."}]}
    (tmp_path / "list.json").write_text(json.dumps([{**chat, "image": ["0.jpg"]}]))
    (tmp_path / "lines.jsonl").write_text(json.dumps(chat))
    (tmp_path / "table.csv").write_text("filepath\ttitle\n0.jpg\tA cat.\n")
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    caption = [(True, [("user", f"<image>\n{DESCRIBE}"), ANSWER])]
    assert opened(tmp_path / "list.json", photos) == opened(tmp_path / "lines.jsonl", photos) == [(True, [ASK, ANSWER])]
    assert opened(tmp_path / "table.csv", photos) == opened(tmp_path / "coco.json", photos) == caption
    (photos / "0.txt").write_text("A cat.")
    assert opened(photos) == caption
    (photos / "metadata.jsonl").write_text(json.dumps({"file_name": "0.jpg", "messages": [QUESTION, REPLY]}))
    assert opened(photos) == [(True, [ASK, ANSWER])]


def test_records_that_are_left_out(tmp_path: Path) -> None:
    """Bad ones among good ones, with and without an image."""
    path = make_set(tmp_path, images=5, text_only=3)
    records = json.loads(path.read_text())
    records[1]["image"] = "missing.png"
    records[2]["image"] = ["2.png", "3.png"]
    records[3]["conversations"] = []
    records[4]["image"] = ["4.png"]
    del records[6]["conversations"]
    path.write_text(json.dumps(records))
    pairs = open_conversations(str(path), None, DataConfig(), "--data")
    assert list(pairs.names) == ["0.png", "4.png", "record 5", "record 7"]
    assert pairs.read(1) == (tmp_path / "4.png").read_bytes()
