"""Folders of images: metadata files, texts beside images, what is ignored, and what is refused."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hive.data.source import BadRecord, Columns, OtherRecord, Record
from hive.data.sources.image_folder import is_image_folder, open_image_folder
from hive.errors import UserError
from tests.support.pairs_on_the_spot import encoded

UNNAMED = Columns()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def records(root: Path, columns: Columns = UNNAMED) -> list[Record]:
    """The records; every image of theirs is also read."""
    assert is_image_folder(root)
    source = open_image_folder(root, columns)
    found = list(source.records)
    assert source.count == len(found)
    for row, record in enumerate(found):
        if record.image is not None and record.fault is None:
            assert source.reader(row) == (root / record.image).read_bytes()
    return found


def told(found: list[Record]) -> list[tuple[str | None, object]]:
    """(image, text or fault) of each record."""
    return [(r.image, r.fields.get("text") if r.fault is None else str(r.fault)) for r in found]


JUNK: dict[str, bytes | str] = {
    "__MACOSX/._0.jpg": b"x",
    "__MACOSX/0.jpg": b"x",
    ".DS_Store": b"x",
    "._0.jpg": b"x",
    "._0.txt": b"x",
    ".cache/1.jpg": b"x",
    "a/.DS_Store": b"x",
    "00000.parquet": b"x",
    "00000_stats.json": "{}",
    "weights.npy": b"x",
}


def test_texts_beside_images(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "0.jpg": encoded(0),
        "0.txt": "zero\n",
        "a/b/1.PNG": encoded(1),
        "a/b/1.caption": "\ufeffone",
        "a/2.webp": encoded(2),
        "a/2.webp.txt": "two",
        "a/2.png": encoded(3),
        "a/lone.jpg": encoded(4),
        "a/lone 2.txt": "no image",
        "a/broken.jpg": encoded(5),
        "a/broken.txt": b"caf\xe9",
        "a/empty.jpg": encoded(6),
        "a/empty.txt": "",
    }
    found = records(write(tmp_path, {**files, **JUNK}))
    assert told(found) == [
        ("0.jpg", "zero\n"),
        ("a/2.png", "the image has no text file beside it"),
        ("a/2.webp", "two"),
        ("a/broken.jpg", "a/broken.txt is not UTF-8 text"),
        ("a/empty.jpg", "a/empty.txt is empty"),
        ("a/lone.jpg", "the image has no text file beside it"),
        (None, "the text has no image beside it"),
        ("a/b/1.PNG", "one"),
    ]
    assert [record.place for record in found][-2:] == ["a/lone 2.txt", "a/b/1.PNG"]
    assert not any(isinstance(record.fault, OtherRecord) for record in found)


def metadata(root: Path, kind: str, rows: list[dict]) -> None:
    path = root / f"metadata.{kind}"
    path.parent.mkdir(exist_ok=True)
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_metadata_files(tmp_path: Path, kind: str) -> None:
    """One at the top and one in a folder; texts beside images don't matter then."""
    names = ("0.jpg", "in/1.jpg", "train/2.jpg", "train/deep/3.jpg", "train/4.jpg")
    write(tmp_path, {name: encoded(number) for number, name in enumerate(names)})
    write(tmp_path, {"0.txt": "not this", "train/extra.txt": "x", **JUNK})
    metadata(tmp_path, kind, [{"file_name": "0.jpg", "text": "zero"}, {"file_name": "in/1.jpg", "text": "one"}])
    rows = [("2.jpg", "two"), ("./deep/3.jpg", "three"), ("5.jpg", "five")]
    metadata(tmp_path / "train", kind, [{"file_name": name, "text": text, "n": 1} for name, text in rows])
    found = records(tmp_path)
    assert told(found) == [
        ("0.jpg", "zero"),
        ("in/1.jpg", "one"),
        ("train/2.jpg", "two"),
        ("train/deep/3.jpg", "three"),
        ("train/5.jpg", "its image is missing: train/5.jpg"),
        (None, "no metadata file names the image"),
    ]
    expected = {"jsonl": "metadata.jsonl line 1", "csv": "metadata.csv line 2", "parquet": "metadata.parquet:0"}[kind]
    assert [found[place].place for place in (0, 2, 5)] == [expected, f"train/{expected}", "train/4.jpg"]
    assert isinstance(found[4].fault, BadRecord)
    assert not isinstance(found[4].fault, OtherRecord)
    assert isinstance(found[5].fault, OtherRecord)


def test_metadata_with_other_columns(tmp_path: Path) -> None:
    write(tmp_path, {"0.jpg": encoded(0)})
    metadata(tmp_path, "csv", [{"where": "0.jpg", "alt": "zero", "text": "not this"}])
    assert [record.image for record in records(tmp_path, Columns("where", "alt"))] == ["0.jpg"]


def test_broken_lines_of_metadata(tmp_path: Path) -> None:
    lines = '{"file_name": "0.jpg", "text": "zero"}\n{"file_name": \n{"file_name": "1.jpg", "text": "one"}\n'
    write(tmp_path, {"0.jpg": encoded(0), "1.jpg": encoded(1), "metadata.jsonl": lines})
    assert [record.fault is None for record in records(tmp_path)] == [True, False, True]


def test_folders_that_are_refused(tmp_path: Path) -> None:
    classes = write(tmp_path / "classes", {"cat/0.jpg": encoded(0), "dog/0.jpg": encoded(1), "README.txt": "cats"})
    assert is_image_folder(classes)
    with pytest.raises(UserError, match=r"has images but no texts: put a text KEY.txt beside .* classes, not captions"):
        open_image_folder(classes, Columns())
    listed = write(tmp_path / "listed", {"0.jpg": encoded(0), "pairs.json": "[]"})
    with pytest.raises(UserError, match=f"give --data {listed}/pairs.json"):
        open_image_folder(listed, Columns())
    wrong = write(tmp_path / "wrong", {"train/0.jpg": encoded(0)})
    metadata(wrong / "train", "jsonl", [{"file_name": "train/0.jpg", "text": "zero"}])
    with pytest.raises(UserError, match="write paths that start from the folder of the metadata file"):
        open_image_folder(wrong, Columns())
    metadata(wrong / "train", "jsonl", [{"file_name": "../../x.jpg", "text": "zero"}])
    with pytest.raises(UserError, match="leaves the image root"):
        open_image_folder(wrong, Columns())
    linked = write(tmp_path / "linked", {"0.txt": "zero"})
    (linked / "0.jpg").symlink_to("../classes/cat/0.jpg")
    with pytest.raises(UserError, match="leaves the image root"):
        open_image_folder(linked, Columns())


@pytest.mark.parametrize(
    ("files", "is_one"),
    [
        (["0.jpg", "0.txt", "0.tar"], True),
        (["a/0.jpg", "a/0.txt", "00000.parquet"], True),  # img2dataset
        (["a/metadata.csv"], True),
        (["a/0.gif"], True),
        (["train-0.parquet", "docs/screenshot.png"], False),
        (["0.tar", "thumbnail.jpg"], False),
        (["0.tar", "1.tar"], False),
        (["__MACOSX/0.jpg"], False),
        (["0.txt", "x.json"], False),
        ([], False),
    ],
)
def test_what_is_an_image_folder(tmp_path: Path, files: list[str], is_one: bool) -> None:
    assert is_image_folder(write(tmp_path, dict.fromkeys(files, b"x"))) == is_one
