"""Records in JSON: each form that people have, what is wrong with one record, and what is wrong with a file."""

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest

from hive.data.source import BadRecord, Columns, OtherRecord, Record, Source
from hive.data.sources import json_records
from hive.data.sources.image_store import open_store
from hive.data.sources.json_records import open_json
from hive.data.sources.path_records import PathReader
from hive.errors import UserError
from tests.support.pairs_on_the_spot import encoded

UNNAMED = Columns()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/0.jpg to 3.jpg."""
    (tmp_path / "photos").mkdir()
    for number in range(4):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(encoded(number, "JPEG"))
    return tmp_path / "photos"


def talk(answer: str) -> list[dict]:
    return [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": answer}]


def source(photos: Path, content: object, name: str = "d.json", columns: Columns = UNNAMED) -> Source:
    file = photos.parent / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return open_json([file], open_store(photos), columns)


def faults(records: Sequence[Record]) -> list[str | None]:
    return [None if record.fault is None else str(record.fault) for record in records]


def images(opened: Source) -> list[str | None]:
    return [record.image for record in opened.records]


RECORDS = [{"id": f"r{n}", "image": f"{n}.jpg", "conversations": talk(f"say {n}")} for n in range(4)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("d.json", RECORDS, "d.json record {} (id r{})"),
        ("d.json", json.dumps(RECORDS, indent=2), "d.json record {} (id r{})"),
        ("d.jsonl", LINES, "d.jsonl line {1} (id r{0})"),
        ("d.json", LINES, "d.json line {1} (id r{0})"),
        ("d.jsonl", "\n" + LINES.replace("\n", "\r\n\r\n"), None),
        ("d.json", b"\xef\xbb\xbf" + json.dumps(RECORDS).encode(), "d.json record {} (id r{})"),
        ("d.jsonl", LINES.encode("utf-16"), "d.jsonl line {1} (id r{0})"),
        ("d.json", {"version": 2, "data": RECORDS}, "d.json data {} (id r{})"),
        ("d.json", json.dumps({"data": RECORDS}, indent=1), "d.json data {} (id r{})"),
        ("d.jsonl", json.dumps(RECORDS), "d.jsonl record {} (id r{})"),
    ],
)
def test_forms(photos: Path, name: str, content: object, place: str | None) -> None:
    opened = source(photos, content, name)
    records = list(opened.records)
    assert opened.count == len(records) == 4
    assert [record.image for record in records] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert [record.fields["conversations"] for record in records] == [talk(f"say {n}") for n in range(4)]
    assert faults(records) == [None] * 4
    if place is not None:
        expected = [place.format(n, n) if "{1}" not in place else place.format(n, n + 1) for n in range(4)]
        assert [record.place for record in records] == expected
    reader = pickle.loads(pickle.dumps(opened.reader))
    assert reader(2) == encoded(2, "JPEG")


def test_a_list_is_read_in_parts(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With parts shorter than a record, and numbers, brackets and quotes where a part may end."""
    content = [{"image": "0.jpg", "n": [1.25e-3, {"]": ',"]['}], "caption": "é" * n} for n in range(40)]
    for chunk in (1, 7, 64, 1 << 20):
        monkeypatch.setattr(json_records, "_CHUNK", chunk)
        for text in (json.dumps(content), json.dumps(content, indent=1, ensure_ascii=False)):
            assert [record.fields for record in source(photos, text).records] == content
        assert (
            faults(list(source(photos, "[12, 345, null]").records)) == ["it is no object with an image and a text"] * 3
        )
    assert source(photos, "[ ]").count == source(photos, "\n").count == source(photos, "", "d.jsonl").count == 0


def test_one_record(photos: Path) -> None:
    for content in (
        json.dumps(RECORDS[0]),
        json.dumps(RECORDS[0], indent=1),
        json.dumps({"images": ["0.jpg"], "x": [{}]}),
    ):
        opened = source(photos, content)
        assert (opened.count, images(opened)) == (1, ["0.jpg"])


@pytest.mark.parametrize(
    ("record", "image"),
    [
        ({"image": ["0.jpg"]}, "0.jpg"),
        ({"image": "./0.jpg"}, "0.jpg"),
        ({"images": ["0.jpg"], "messages": []}, "0.jpg"),
        ({"image": {"path": "0.jpg"}}, "0.jpg"),
        ({"image": [{"file_name": "0.jpg"}]}, "0.jpg"),
        ({"image": "", "file_name": "0.jpg"}, "0.jpg"),
        ({"filepath": "0.jpg"}, "0.jpg"),
        ({"image": ""}, None),
        ({"image": None}, None),
        ({"image": []}, None),
        ({"image": " "}, None),
        ({}, None),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": "0.jpg"}]}]}, "0.jpg"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "0.jpg"}}]}]}, "0.jpg"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}]}, None),
        ({"messages": [{"role": "user", "content": "hello"}]}, None),
    ],
)
def test_images_of_a_record(photos: Path, record: dict, image: str | None) -> None:
    records = list(source(photos, [record]).records)
    assert (records[0].image, records[0].fault) == (image, None)


def test_faults_of_a_record(photos: Path) -> None:
    """Each is the fault of that record alone."""
    bad = [
        ({"image": "missing.jpg"}, "its image is missing: missing.jpg"),
        ({"image": ["0.jpg", "1.jpg", "2.jpg"]}, "has 3 images, but a pair has one"),
        ({"image": 7}, "its image is no path: 7"),
        ({"image": {"url": "0.jpg"}}, "its image is no path: {'url': '0.jpg'}"),
        (
            {"image": "http://x.org/0.jpg"},
            "its image is a URL, and nothing is fetched while training: http://x.org/0.jpg",
        ),
        (["0.jpg", "a cat"], "it is no object with an image and a text"),
    ]
    records = list(source(photos, [*RECORDS, *(record for record, _ in bad)]).records)
    assert faults(records) == [None] * 4 + [reason for _, reason in bad]
    assert [isinstance(record.fault, OtherRecord) for record in records[4:]] == [
        False,
        True,
        False,
        False,
        False,
        False,
    ]
    assert all(isinstance(record.fault, BadRecord) for record in records[4:])
    assert records[4].image == "missing.jpg"


def test_a_broken_line_is_a_bad_record(photos: Path) -> None:
    lines = LINES.splitlines()
    for number in range(4):
        broken = [*lines[:number], lines[number][:30], *lines[number + 1 :]]
        records = list(source(photos, "\n".join(broken), "d.jsonl").records)
        assert [record.fault is None for record in records] == [n != number for n in range(4)]
        assert records[number].place == f"d.jsonl line {number + 1}"
        assert "no valid JSON" in str(records[number].fault)


def test_a_byte_that_is_not_utf8_spoils_one_record(photos: Path) -> None:
    for name, content in (("d.jsonl", LINES), ("d.json", json.dumps(RECORDS))):
        records = list(source(photos, content.encode().replace(b"say 2", b"say \xe92"), name).records)
        assert [record.image for record in records] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
        assert records[2].fields["conversations"] == talk("say \udce92")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"image": "0.jpg",\n "caption": }]', r"line 2, column 13 \(Expecting value\): repair it"),
        (json.dumps(RECORDS)[:-40], "no valid JSON at line 1, column .* cut off"),
        ('[{"image": "0.jpg"},]', "line 1, column 2[01]"),
        ('[{"image": "0.jpg"} {"image": "1.jpg"}]', r"line 1, column 21 \(Expecting ',' delimiter"),
        ('[{"image": "0.jpg"}]\n[]', r"line 2, column 1 \(Extra data"),
        ('{"data": [\n{"image": "0.jpg"},\n}', "line 3, column 1"),
        ("[" * 100_000, "nested too deeply"),
        ('{"train": [{"image": "0.jpg"}], "val": [{"image": "1.jpg"}]}', "the lists train, val"),
        ("3", "holds 3 at its top"),
        ('{"0.jpg": "a cat", "1.jpg": "a dog"}', "an object with the fields 0.jpg, 1.jpg, which is neither"),
        ('{"0.jpg": "a cat",\n "1.jpg": "a dog"}', "an object with the fields 0.jpg, 1.jpg, which is neither"),
        ("no JSON", "line 1, column 1"),
    ],
)
def test_files_that_are_refused(photos: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(photos, content)


def test_coco_captions(photos: Path) -> None:
    opened = source(
        photos,
        {
            "info": {},
            "annotations": [
                {"id": 9, "image_id": 1, "caption": "a"},
                {"id": 8, "image_id": 1, "caption": "b"},
                {"id": 7, "image_id": 5, "caption": "c"},
                3,
            ],
            "images": [{"id": 1, "file_name": "0.jpg", "height": 3}, {"id": 2, "file_name": "1.jpg"}],
        },
    )
    records = list(opened.records)
    assert [(record.place, record.image, record.fields.get("caption")) for record in records] == [
        ("d.json annotation 0 (id 9)", "0.jpg", "a"),
        ("d.json annotation 1 (id 8)", "0.jpg", "b"),
        ("d.json annotation 2 (id 7)", None, "c"),
        ("d.json annotation 3", None, None),
        ("d.json image (id 2)", None, None),
    ]
    assert faults(records) == [
        None,
        None,
        'its image 5 is not in "images"',
        "it is no object with an image and a text",
        "the image has no annotation",
    ]
    assert opened.reader(1) == encoded(0, "JPEG")


def test_several_files(photos: Path) -> None:
    paths = [photos.parent / name for name in ("b/x.json", "a/x.jsonl")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text(json.dumps([RECORDS[number]]))
    opened = open_json(paths, open_store(photos), Columns())
    assert [record.place for record in opened.records] == ["b/x.json record 0 (id r0)", "a/x.jsonl record 0 (id r1)"]
    assert opened.reader(1) == encoded(1, "JPEG")


def test_the_field_that_a_flag_names(photos: Path) -> None:
    content = [{"image": "nowhere.jpg", "meta": {"file": "0.jpg"}}]
    assert images(source(photos, content, columns=Columns(image="meta.file"))) == ["0.jpg"]


def test_a_wrong_root(photos: Path) -> None:
    """Nearly all images missing is a mistake about the root; one in two is not."""
    content = [{"image": f"photos/{n}.jpg", "caption": "x"} for n in range(4)]
    with pytest.raises(
        UserError, match=r"of 4 of 4 records are missing, such as photos/0.jpg of d.json; .*below"
    ) as error:
        source(photos, content)
    assert f"give --image-root {photos.parent}." in str(error.value)
    assert source(photos, [*content, *RECORDS]).count == 8
    with pytest.raises(UserError, match=r"^d.json record 1: the image '../x.jpg' leaves the image root"):
        source(photos, [RECORDS[0], {"image": "../x.jpg"}])


def test_many_images_hold_little(photos: Path) -> None:
    """A reader has the names of images, but no lists of the folders that they are in."""
    for number in range(4, 300):
        os.link(photos / "0.jpg", photos / f"{number}.jpg")
    opened = source(photos, [{"image": "0.jpg", "caption": "x"}])
    assert isinstance(opened.reader, PathReader)
    assert "299.jpg" not in repr(vars(opened.reader.images))
    assert len(pickle.dumps(opened.reader)) < 500


def test_files_in_several_folders_are_not_told_one_root(tmp_path: Path) -> None:
    """The images of one file may have the names of another's: with one root they would be mixed up."""
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(b"x")
        files.append(tmp_path / name / "x.json")
        files[-1].write_text(json.dumps([{"image": "0.jpg", "caption": name}]))
    with pytest.raises(UserError, match=r"write a mixture \(.toml\) that gives each file its image_root"):
        open_json(files, open_store(tmp_path), Columns())
