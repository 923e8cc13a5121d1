"""The lines of docs/data.md about images named by path, opened as they are written."""

import argparse
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from hive.config import DataConfig
from hive.data.open_source import open_source
from tests.support.pairs_on_the_spot import encoded

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
SECTION = re.search(r"## Images named by path\n\n```\n(.*?)```", PAGE, re.S)
LINES = SECTION.group(1).splitlines() if SECTION else []
CAPTIONS = ["a cat", "a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the lines name."""
    root = tmp_path_factory.mktemp("documented")
    images = [encoded(number, "JPEG") for number in range(2)]
    records = [{"image": f"{number}.jpg", "caption": caption} for number, caption in enumerate(CAPTIONS)]
    for name in ("photos", "imagefolder"):
        (root / name).mkdir()
        for number, image in enumerate(images):
            (root / name / f"{number}.jpg").write_bytes(image)
            (root / name / f"{number}.txt").write_text(CAPTIONS[number])
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (root / "imagefolder" / "metadata.jsonl").write_text(lines.replace('"image"', '"file_name"'))
    (root / "llava.json").write_text(json.dumps(records))
    (root / "lines.jsonl").write_text(lines)
    (root / "pairs.csv").write_text("image,caption\n0.jpg,a cat\n1.jpg,a dog\n")
    coco = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(2)],
        "annotations": [{"image_id": number, "caption": caption} for number, caption in enumerate(CAPTIONS)],
    }
    (root / "captions_train2017.json").write_text(json.dumps(coco))
    with lmdb.open(str(root / "images.lmdb")) as environment, environment.begin(write=True) as transaction:
        for number, image in enumerate(images):
            transaction.put(f"{number}.jpg".encode(), image)
    return root


def texts(fields: object) -> Iterator[str]:
    assert isinstance(fields, dict)
    return (fields[name] for name in ("caption", "text") if name in fields)


@pytest.mark.parametrize("line", LINES)
def test_documented_line(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    program, *flags = shlex.split(line.removeprefix("python -m "), comments=True)
    assert program == "hive.train"
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--image-root", type=Path)
    given = parser.parse_args(flags)
    source = open_source(given.data, given.image_root, DataConfig())
    records = list(source.records)
    assert [next(texts(record.fields)) for record in records] == CAPTIONS
    assert [source.reader(row) for row in range(source.count)] == [encoded(number, "JPEG") for number in range(2)]


def test_there_are_such_lines() -> None:
    assert len(LINES) >= 7
