"""The lines of docs/data.md that name sources, opened as they are written, with hive.train's own flags."""

import json
import re
import shlex
from pathlib import Path

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hive.data.open_source import KINDS
from hive.data.pairs import open_pairs
from hive.data.sources.hub import cache_folder
from hive.train.cli import parse
from tests.support.pairs_on_the_spot import encoded, shard

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", PAGE.partition("## Check your data first")[0], re.S)
LINES = [line for block in BLOCKS for line in block.splitlines()]
CAPTIONS = ["a cat", "a dog", "a cow", "a pig"]
IMAGES = [encoded(number, "JPEG") for number in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the lines name: of the four pairs the first two, or all."""
    root = tmp_path_factory.mktemp("documented")
    records = [{"image": f"{number}.jpg", "caption": caption} for number, caption in enumerate(CAPTIONS[:2])]
    for name in ("photos", "imagefolder"):
        (root / name).mkdir()
        for number, image in enumerate(IMAGES[:2]):
            (root / name / f"{number}.jpg").write_bytes(image)
            (root / name / f"{number}.txt").write_text(CAPTIONS[number])
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (root / "imagefolder" / "metadata.jsonl").write_text(lines.replace('"image"', '"file_name"'))
    (root / "llava.json").write_text(json.dumps(records))
    (root / "lines.jsonl").write_text(lines)
    (root / "pairs.csv").write_text("image,caption\n0.jpg,a cat\n1.jpg,a dog\n")
    coco = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(2)],
        "annotations": [{"image_id": number, "caption": caption} for number, caption in enumerate(CAPTIONS[:2])],
    }
    (root / "captions_train2017.json").write_text(json.dumps(coco))
    with lmdb.open(str(root / "images.lmdb")) as environment, environment.begin(write=True) as transaction:
        for number, image in enumerate(IMAGES[:2]):
            transaction.put(f"{number}.jpg".encode(), image)
    (root / "shards").mkdir()
    for half in range(2):
        members: dict[str, bytes | str] = {}
        for number in (2 * half, 2 * half + 1):
            members |= {f"{number}.jpg": IMAGES[number], f"{number}.txt": CAPTIONS[number]}
        shard(root / "shards" / f"{half:05}.tar", members)
        (root / "shards" / f"{half:05}_stats.json").write_text("{}")
    (root / "dataset").mkdir()
    write_parquet(root / "train.parquet", range(2))
    write_parquet(root / "dataset" / "train-00000-of-00001.parquet", range(2))
    write_parquet(root / "dataset" / "test-00000-of-00001.parquet", range(2, 4))
    (root / "mixture.toml").write_text(
        '[[sources]]\ndata = "llava.json"\nimage_root = "photos"\n[[sources]]\ndata = "shards/00001.tar"\nweight = 2\n'
    )
    return root


def write_parquet(path: Path, numbers: range) -> None:
    images = pa.array([IMAGES[number] for number in numbers], pa.binary())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "text": [CAPTIONS[number] for number in numbers]}), path)


def pairs_of(line: str) -> list[int]:
    """Which of the four pairs a line names."""
    if "split test" in line:
        return [2, 3]
    return [0, 1, 2, 3] if re.search(r"shards( |/\*|/\{|/\S+::)|mixture", line) else [0, 1]


@pytest.mark.parametrize("line", LINES)
def test_documented_line(line: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))  # with a copy that an earlier run made
    write_parquet(cache_folder() / "ORG%2FNAME" / "default" / "train" / "commit" / "00000.parquet", range(2))
    program, *flags = shlex.split(line.removeprefix("python -m "), comments=True)
    assert program == "hive.train"
    config = parse(flags).config
    pairs = open_pairs(config.data, config.image_root, config.dataset)
    if config.data == "embedded":
        assert len(pairs) == 2388
        return
    numbers = pairs_of(line)
    assert list(pairs.captions) == [CAPTIONS[number] for number in numbers]
    assert [pairs.read(index) for index in range(len(pairs))] == [IMAGES[number] for number in numbers]


def test_every_kind_of_file_has_a_line() -> None:
    for kind in KINDS:
        assert any(re.search(rf"--data \S*{re.escape(suffix)}\b", PAGE) for suffix in kind.suffixes), kind.words
    assert len(LINES) >= 18
