"""Data sets on Hugging Face: copied once by the real streaming code, whole or not at all, and used offline."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from hive.config import DataConfig
from hive.data.open_source import open_source
from hive.data.source import Columns
from hive.data.sources.hub import write_copy
from hive.data.sources.parquet import open_parquet
from hive.errors import UserError
from tests.support.fake_hub import COMMIT, closed_endpoint, serve_hub

datasets = pytest.importorskip("datasets")
CAPTIONS = [f"caption {number}" for number in range(40)]
CHILD = """
import sys
from hive.command import exit_code
from hive.data.source import Columns
from hive.data.sources import hub

def show(name, subset, split):
    source = hub.open_hub(name, subset or None, split, Columns())
    records = list(source.records)
    print(len(records), records[-1].place, records[-1].fields["caption"], len(source.reader(len(records) - 1)))

for request in sys.argv[1:]:
    if request.startswith("!"):
        exec(request[1:])
    else:
        exit_code(lambda: show(*request.split(",")) or 0)
"""


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def publish(root: Path) -> None:
    """owner/set: 40 rows in two files of train, one row of test; owner/two: the subsets a and b."""
    for name, file, rows in (
        ("set", "data/train-00000-of-00002.parquet", range(30)),
        ("set", "data/train-00001-of-00002.parquet", range(30, 40)),
        ("set", "data/test-00000-of-00001.parquet", range(1)),
        ("two", "a/train.parquet", range(2)),
        ("two", "b/train.parquet", range(3)),
    ):
        path = root / "owner" / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        images = [{"bytes": png(row), "path": None} for row in rows]
        features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
        table = datasets.Dataset.from_dict({"image": images, "caption": [CAPTIONS[row] for row in rows]}, features)
        pq.write_table(table.data.table, path)
    (root / "owner" / "two" / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(f"- config_name: {name}\n  data_files: {name}/train.parquet\n" for name in "ab")
        + "---\n"
    )


def run(home: Path, endpoint: str, *requests: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A process that opens NAME,SUBSET,SPLIT for each request, or runs what stands after a "!"."""
    environment = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "", "HF_DATASETS_OFFLINE": ""}
    return subprocess.run(
        [sys.executable, "-c", CHILD, *requests],
        env={**os.environ, **environment, **more}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_data_set_is_copied_once_and_used_without_a_network(tmp_path: Path) -> None:
    publish(tmp_path / "hub")
    home = tmp_path / "home"
    with serve_hub(tmp_path / "hub") as (endpoint, asked):
        first = run(home, endpoint, "owner/set,,train", "owner/set,,train", "owner/set,,test", "owner/two,b,train",
                    "owner/set,,nope", "owner/two,,train", "owner/two,c,train", "owner/nothing,,train")  # fmt: skip
        assert not [path for path in asked if "two/resolve" in path and "/a/" in path], "of the other subset"
    rows = [line.split() for line in first.stdout.splitlines()]
    assert [row[0] for row in rows] == ["40", "40", "1", "3"], first.stderr
    assert rows[0] == rows[1] == ["40", "00000.parquet:39", "caption", "39", str(len(png(39)))]
    errors = [line for line in first.stderr.splitlines() if line.startswith("error: ")]
    assert [word in line for word, line in zip(("Bad split", "a", "c", "no such data set"), errors, strict=True)]
    assert "nope" in errors[0]
    assert "'test'" in errors[0] or "test" in errors[0]
    assert "'a', 'b'" in errors[1]
    assert "'a', 'b'" in errors[2]
    assert first.stderr.count("Traceback") == 0
    again = run(home, closed_endpoint(), "owner/set,,train", "owner/set,,validation")
    assert again.stdout.splitlines() == first.stdout.splitlines()[:1]
    assert "owner/set is not here, and the hub can't be reached" in again.stderr
    offline = run(home, endpoint, "owner/two,b,train", "owner/two,a,train", HF_HUB_OFFLINE="1")
    assert offline.stdout.split()[0] == "3"
    assert "and HF_HUB_OFFLINE is set" in offline.stderr


def test_a_dry_run_copies_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"--data owner/set is not in .* yet: a run copies it there"):
        open_source("owner/set", None, DataConfig(), download=False)
    assert not list(tmp_path.iterdir())


FULL = f"""!
def write(path, tables, report):
    path.write_bytes(b"half")
    raise OSError({errno.ENOSPC}, "No space left on device", str(path))

hub._write, whole = write, hub._write
"""


def test_a_full_disk_and_what_a_kill_left(tmp_path: Path) -> None:
    publish(tmp_path / "hub")
    folder = tmp_path / "home" / "hive-datasets" / "owner%2Fset" / "default" / "train"
    (folder / "fedc.part").mkdir(parents=True)
    (folder / "fedc.part" / "00000.parquet").write_bytes(b"half")
    name = "owner/set,,train"
    unpacked = "!kept, sys.modules['datasets'] = sys.modules['datasets'], None"
    repaired = "!hub._write, sys.modules['datasets'] = whole, kept"
    with serve_hub(tmp_path / "hub") as (endpoint, _):
        done = run(tmp_path / "home", endpoint, FULL, name, unpacked, name, repaired, name)
    full, missing = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert full.startswith("error: The disk or its quota is full: --data owner/set is copied to")
    assert "HF_HOME" in full
    assert "pip install 'hive-pretraining[hub]'" in missing
    assert done.stdout.split()[0] == "40"
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [COMMIT]


def copied(stream: Any, folder: Path, **options: Any) -> list[tuple[bytes, dict[str, object]]]:
    files = sorted(write_copy(stream, folder, "it", **options).glob("*"))
    source = open_parquet(files, folder, None, Columns())
    return [(source.reader(row), dict(record.fields)) for row, record in enumerate(source.records)]


def test_files_end_at_their_size_and_groups_are_small(tmp_path: Path) -> None:
    publish(tmp_path / "hub")
    stream = datasets.load_dataset(str(tmp_path / "hub" / "owner" / "set"), split="train", streaming=True)
    rows = copied(stream, tmp_path / "copy", file_bytes=1)
    assert [(image, fields["caption"]) for image, fields in rows] == [(png(n), CAPTIONS[n]) for n in range(40)]
    files = [pq.ParquetFile(path) for path in sorted((tmp_path / "copy").iterdir())]
    assert len(files) > 1
    assert max(file.metadata.row_group(0).num_rows for file in files) <= 16


def test_a_folder_of_images_is_copied_with_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.png").write_bytes(png(0))
    (tmp_path / "set" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "zero"}\n')
    stream = datasets.load_dataset(str(tmp_path / "set"), split="train", streaming=True)
    ((image, fields),) = copied(stream, tmp_path / "copy")
    assert (image, fields["text"]) == (png(0), "zero")


def examples(kinds: str) -> Iterator[dict[str, Any]]:
    for number in range(3):
        image = Image.new("RGB", (4, 4), (number, 9, 9))
        yield {"caption": str(number), "image": [image] if kinds == "lists" else image}


@pytest.mark.parametrize("kinds", ["images", "lists"])
def test_images_that_pillow_made_are_stored_as_png(tmp_path: Path, kinds: str) -> None:
    stream = datasets.IterableDataset.from_generator(examples, gen_kwargs={"kinds": kinds})
    rows = copied(stream, tmp_path / "copy")
    for number, (image, fields) in enumerate(rows):
        opened = Image.open(io.BytesIO(image))
        assert (opened.format, opened.getpixel((0, 0)), fields["caption"]) == ("PNG", (number, 9, 9), str(number))
    assert len(rows) == 3


def breaking(error: BaseException) -> Iterator[dict[str, str]]:
    for number in range(1000):
        if number == 500:
            raise error
        yield {"caption": str(number)}


@pytest.mark.parametrize("error", [ValueError("damaged"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_nothing_half_written_stays(tmp_path: Path, error: BaseException) -> None:
    stream = datasets.IterableDataset.from_generator(breaking, gen_kwargs={"error": error})
    with pytest.raises(type(error)):
        write_copy(stream, tmp_path / "copy", "it", file_bytes=100)
    assert not list(tmp_path.iterdir())
