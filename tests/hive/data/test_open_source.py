"""What --data may be: globs, braces, several names, folders; and what is said of what it may not be."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hive.config import DataConfig
from hive.data.open_source import KINDS, SOURCES, is_hub_name, open_source
from hive.data.pairs import Pairs, open_pairs
from hive.errors import UserError
from tests.support.pairs_on_the_spot import encoded, shard

Form = Literal["NFC", "NFD"]


def opened(data: Path | str, image_root: Path | None = None, **options: str) -> Pairs:
    return open_pairs(str(data), image_root, DataConfig(**options))  # type: ignore[arg-type]


def refused(data: Path | str, image_root: Path | None = None, **options: str) -> str:
    with pytest.raises(UserError) as raised:
        opened(data, image_root, **options)
    sentence = str(raised.value)
    assert sentence.endswith(".")
    return sentence


def make_shard(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shard(path, {f"{number}.png": encoded(number), f"{number}.txt": str(number)})


def make_parquet(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array([encoded(number)]), "caption": [str(number)]}), path)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """0.tar to 3.tar, the last one deeper."""
    for number in range(3):
        make_shard(tmp_path / f"{number}.tar", number)
    make_shard(tmp_path / "more" / "deep" / "3.TAR", 3)
    return tmp_path


@pytest.mark.parametrize(
    ("data", "captions"),
    [
        ("{0..2}.tar", "012"),
        ("{2,0}.tar", "20"),
        ("{1..2}.tar::0.tar", "120"),
        ("*.tar", "012"),
        ("[12].tar", "12"),
        ("2.tar::*.tar", "201"),
        ("{.,more/deep}/*.[tT][aA][rR]", "0123"),
        ("**/*.TAR", "3"),
        ("more::0.tar", "30"),
        ("", "0123"),
        ("more", "3"),
    ],
)
def test_several_files(shards: Path, data: str, captions: str) -> None:
    """Each file once, in the order in which they are named, those of a glob or a folder sorted."""
    names = [f"{shards}/{name}" for name in data.split("::")]
    assert list(opened("::".join(names)).captions) == list(captions)


def test_a_name_that_is_there_is_no_pattern(tmp_path: Path) -> None:
    for name in ("a[1].tar", "b{1,2}.tar", "c::d.tar"):
        make_shard(tmp_path / name, 4)
        assert opened(tmp_path / name).captions == ["4"]


def test_files_are_the_same_pairs_however_they_are_named(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shards)
    assert len({opened(data).fingerprint for data in ("{0..2}.tar", shards / "*.tar", "./*.tar")}) == 1
    monkeypatch.setenv("HOME", str(shards))
    assert opened("~/{0,1}.tar").names == ["0.tar:0.png", "1.tar:1.png"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("{0..9}.tar", "names 10 files, of which 7 do not exist, such as {root}/3.tar"),
        ("0.tar::nope.tar", "names 2 files, of which 1 do not exist, such as nope.tar"),
        ("0.tar::", "such as an empty name"),
        ("{0..2.tar", "a brace without its partner"),
        ("nope*.tar", "matches no file"),
        ("nope.json", f"does not exist: give {SOURCES}"),
        ("d.txt", f"is of no known kind: give {SOURCES}"),
        ("*", "also names {root}/d.txt, which is of no known kind"),
        ("0.tar::d.json", "names webdataset shards such as {root}/0.tar and JSON such as {root}/d.json: give files of"),
        ("e.tar.gz", "compressed, but files are read in place: unpack it by gunzip {root}/e.tar.gz and"),
        ("e f.zip", "unpack it by unzip '{root}/e f.zip' -d FOLDER"),
    ],
)
def test_what_is_no_source(shards: Path, data: str, sentence: str) -> None:
    for name in ("d.txt", "d.json", "e.tar.gz", "e f.zip"):
        (shards / name).write_text("[]")
    names = [f"{shards}/{name}" if place == 0 else name for place, name in enumerate(data.split("::"))]
    if names[1:] == ["d.json"]:
        names[1] = f"{shards}/d.json"
    assert sentence.format(root=shards) in refused("::".join(names))


def test_leftovers_do_not_make_a_folder_ambiguous(shards: Path) -> None:
    """What img2dataset and macOS leave beside shards; a glob of everything passes them over as well."""
    for number in range(3):
        make_parquet(shards / f"{number}.parquet", 9)
        (shards / f"{number}_stats.json").write_text("{}")
    for name in (".DS_Store", "._0.tar", "more/._3.TAR", "__MACOSX/._1.tar", "more/__MACOSX/1.tar"):
        (shards / name).parent.mkdir(exist_ok=True)
        (shards / name).write_text("x")
    assert list(opened(shards).captions) == ["0", "1", "2", "3"]
    assert list(opened(f"{shards}/**/*.*").captions) == ["0", "1", "2", "3"]
    make_parquet(shards / "other.parquet", 9)
    sentence = refused(shards)
    assert f"webdataset shards such as {shards}/0.tar and Parquet files such as {shards}/other.parquet" in sentence
    assert list(opened(f"{shards}/**/*.tar").captions) == ["0", "1", "2"]


def test_links_that_go_round_are_followed_once(shards: Path) -> None:
    (shards / "more" / "up").symlink_to(shards)
    assert list(opened(shards).captions) == ["0", "1", "2", "3"]


def test_a_folder_of_nothing_that_can_be_read_says_what_it_holds(tmp_path: Path) -> None:
    assert "holds nothing, but neither images nor webdataset shards (.tar) nor Parquet files" in refused(tmp_path)
    (tmp_path / "README.md").write_text("x")
    assert "holds 1 files such as README.md" in refused(tmp_path)
    (tmp_path / "a.tar.gz").write_text("x")
    assert f"unpack it by gunzip {tmp_path}/a.tar.gz" in refused(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("x")
    (tmp_path / "a.tar.gz").unlink()
    assert f"with files such as pairs.jsonl: give {tmp_path}/pairs.jsonl" in refused(tmp_path)


@pytest.mark.parametrize("name", ["3.tar.gz", "3.tgz", "3.TAR.GZ"])
def test_a_compressed_shard_among_others_is_not_passed_over(shards: Path, name: str) -> None:
    (shards / name).write_bytes(b"\x1f\x8b")
    assert f"unpack it by gunzip {shards}/{name}" in refused(shards)


def test_splits_in_the_hubs_layout(tmp_path: Path) -> None:
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        make_shard(tmp_path / "data" / f"{name}.tar", number)
    assert list(opened(tmp_path).captions) == ["0", "1"]
    assert list(opened(tmp_path, split="test").captions) == ["2"]
    assert list(opened(f"{tmp_path}/data/*.tar").captions) == ["2", "0", "1"]
    assert "has files of the splits test, train, but --dataset.split is validation" in refused(
        tmp_path, split="validation"
    )
    for file in tmp_path.glob("data/train*"):
        file.unlink()
    assert "has files of the splits test, but --dataset.split is train" in refused(tmp_path)


def test_shards_by_split_in_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("train/0.tar", "val/0.tar", "extra/latest.tar")):
        make_shard(tmp_path / name, number)
    assert list(opened(tmp_path).captions) == ["2", "0"]
    assert list(opened(tmp_path, split="validation").captions) == ["2", "1"]


def test_folders_of_images_by_split(tmp_path: Path) -> None:
    """Held-out folders are not trained on, however deep; what names no split is; one such name alone says nothing."""
    for number, folder in enumerate(("images/Train", "images/val2017", "extra", "")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "0.png").write_bytes(encoded(number))
        (tmp_path / folder / "0.txt").write_text(folder or "root")
    assert list(opened(tmp_path).captions) == ["root", "extra", "images/Train"]
    assert list(opened(tmp_path, split="val").captions) == ["root", "extra", "images/val2017"]
    assert "has folders of the splits train, validation, but --dataset.split is test" in refused(tmp_path, split="test")
    (tmp_path / "metadata.csv").write_text("file_name,text\nimages/Train/0.png,a\nimages/val2017/0.png,b\n")
    assert list(opened(tmp_path).captions) == ["a"]
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "images" / "val2017").rename(tmp_path / "beach")
    assert len(opened(tmp_path)) == 4
    assert "--dataset.split is test" in refused(tmp_path, split="test")


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("typed", ["NFC", "NFD"])
def test_names_compare_in_one_normal_form(tmp_path: Path, on_disk: Form, typed: Form) -> None:
    folder = tmp_path / normalize(on_disk, "Fotos für später")
    make_shard(folder / normalize("NFD" if on_disk == "NFC" else "NFC", "größe 0.tar"), 6)
    for name in ("größe 0.tar", "größe*.tar", "größe {0..0}.tar", "*.tar", ""):
        assert opened(tmp_path / normalize(typed, f"Fotos für später/{name}")).captions == ["6"]


def test_flags_that_have_no_meaning_are_refused(shards: Path, llava: Callable[..., Path]) -> None:
    assert "--image-root goes with JSON (.json, .jsonl, .ndjson), tables" in refused(shards, shards)
    assert "--image-root goes with" in refused("embedded", shards)
    assert "--image-root goes with" in refused("someone/pictures", shards)
    path = llava([{"image": "images/0.png", "caption": "c"}])
    for data in (path, "embedded", shards / "0.tar"):
        assert "--dataset.split is test, but --data" in refused(data, split="test")
        assert "--dataset.subset is small, but --data" in refused(data, subset="small")
    assert "--dataset.split is test" in refused(shards, split="test")
    assert "--dataset.subset is small" in refused(shards, subset="small")
    assert opened(path, path.parent, split="train").captions == ["c"]
    for flag, other in (("--data2", "--image-root2"), ("data/mix.toml: data", "data/mix.toml: image-root")):
        with pytest.raises(UserError, match=f"^{other} goes with .* but {flag} is embedded: leave {other} out"):
            open_source("embedded", shards, DataConfig(), flag)


def test_a_name_on_the_hub_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert is_hub_name("nlphuji/flickr30k")
    assert is_hub_name("someone/data_v1.5")
    for path in (
        "photos/train",
        "photos",
        "a/b/c",
        "./a",
        "/a/b",
        "~/a",
        "a/b.parquet",
        "a/b.tar.gz",
        "a/*",
        "embedded",
    ):
        assert not is_hub_name(path)
    assert "does not exist" in refused("photos/train")


def test_folders_of_images_and_tables(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.JPG").write_bytes(encoded(number, "JPEG"))
        (tmp_path / f"{number}.txt").write_text(f"number {number}\n")
    assert [caption.strip() for caption in opened(tmp_path).captions] == ["number 0", "number 1"]
    rows = {"a.csv": "filepath,title\n0.JPG,zero\n", "b.TSV": "filepath\ttitle\n1.JPG\tone\n"}
    for name, text in rows.items():
        (tmp_path / name).write_text(text)
    assert opened(tmp_path / "a.csv").captions == ["zero"]
    assert opened(f"{tmp_path}/a.csv::{tmp_path}/b.TSV").captions == ["zero", "one"]
    (tmp_path / "lists").mkdir()
    os.rename(tmp_path / "a.csv", tmp_path / "lists" / "a.csv")
    assert opened(tmp_path / "lists" / "a.csv", tmp_path).read(0) == encoded(0, "JPEG")


def test_the_help_names_every_suffix() -> None:
    """The docstring of a flag is written by hand; this table is what it must say."""
    text = (Path(__file__).parents[3] / "hive" / "config.py").read_text()
    doc = text.partition("data: Annotated[str, FREE]")[2].partition("image_root")[0]
    assert [suffix for kind in KINDS for suffix in kind.suffixes if suffix not in doc and suffix != ".yml"] == []
