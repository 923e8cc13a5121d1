"""Mixtures: what a file says of its sources, and their records and images one after the other."""

import pickle
from pathlib import Path

import pytest

from hive.config import DataConfig
from hive.data.open_source import is_hub_name
from hive.data.source import Part, Record, Source
from hive.data.sources.mixture import open_mixture
from hive.errors import UserError

OPTIONS = DataConfig()


class Images:
    """The bytes of row k are the name and k."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, row: int) -> bytes:
        return f"{self.name} {row}".encode()


def open_toy(data: str, image_root: Path | None, options: DataConfig, flag: str) -> Source:
    """A source of as many records as the last digit of its name says; mixtures are opened in turn."""
    if data.endswith((".toml", ".yaml")):
        return open_mixture(Path(data), options, open_toy, is_hub_name)
    count = int(data[-1])
    fields = {"caption": "usual", "title": "a title", "talk": [{"from": "gpt", "value": "v"}]}
    records = [Record(f"f:{row}", f"{row}.jpg" if row else None, fields) for row in range(count)]
    return Source(records, count, Images(f"{data} {image_root}"))


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


TOML = """
[[sources]]
data = "a/x3"
image_root = "../photos/"
weight = 2.0

[[sources]]
data = "b/*/{0..9}2"
"""
YAML = """
sources:
  - {data: a/x3, image_root: ../photos/, weight: 2.0}
  - data: "b/*/{0..9}2"
"""


@pytest.mark.parametrize(("name", "text"), [("m.toml", TOML), ("m.yaml", YAML)])
def test_records_follow_each_other(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "a").mkdir()
    source = open_mixture(written(tmp_path / name, text), OPTIONS, open_toy, is_hub_name)
    assert source.parts == (Part("a/x3", 2.0, 3), Part("b/*/{0..9}2", 1.0, 2))
    records = list(source.records)
    assert source.count == 5
    assert [record.place for record in records] == ["a/f:0", "a/f:1", "a/f:2", "b/f:0", "b/f:1"]
    assert [record.image for record in records] == [None, "../photos/1.jpg", "../photos/2.jpg", None, "b/1.jpg"]
    reader = pickle.loads(pickle.dumps(source.reader))
    first, second = f"{tmp_path}/a/x3 {tmp_path}/../photos", f"{tmp_path}/b/*/{{0..9}}2 None"
    assert [reader(row).decode() for row in range(5)] == [f"{first} {row}" for row in range(3)] + [
        f"{second} {row}" for row in range(2)
    ]


def test_names_of_images_begin_with_the_folder_that_they_are_in(tmp_path: Path) -> None:
    """So that one image has one name in two sources, and two images of one name in two folders have two."""
    for folder in ("shards.3", "json", "s"):
        (tmp_path / folder).mkdir()
    for data, root, folder in (
        ("json/a.3", None, "json"),
        ("json/a.3", "photos", "photos"),
        ("json/a.3", "./json/../photos", "photos"),
        ("a.3", None, ""),
        ("shards.3", None, "shards.3"),
        ("s/{a,b}/*.3", None, "s"),
        ("s/a/x.3::s/b/y.3", None, "s"),
        ("s/a.3::/t/b.3", None, ""),
        ("embedded3", None, ""),
        ("org/data-v1.3", None, "org/data-v1.3"),
        ("/d/a.3", None, "/d"),
    ):
        lines = [f'data = "{data}"', *([f'image_root = "{root}"'] if root else [])]
        path = written(tmp_path / "m.toml", "[[sources]]\n" + "\n".join(lines))
        record = list(open_mixture(path, OPTIONS, open_toy, is_hub_name).records)[1]
        assert record.image == (f"{folder}/1.jpg" if folder else "1.jpg"), data


def test_paths_are_relative_to_the_file_but_hub_names_stay(tmp_path: Path) -> None:
    asked: list[tuple[str, Path | None]] = []

    def opener(data: str, image_root: Path | None, options: DataConfig, flag: str) -> Source:
        asked.append((data, image_root))
        return Source([], 0, Images(""))

    names = ["embedded", "org/name", "here/name", "x.parquet", "/abs/x.tar", "a.tar::b.tar", "org/x.json"]
    (tmp_path / "here").mkdir()
    text = "".join(f'[[sources]]\ndata = "{name}"\n' for name in names)
    open_mixture(written(tmp_path / "m.toml", text), OPTIONS, opener, is_hub_name)
    assert [data.replace(str(tmp_path), ".") for data, _ in asked] == [
        "embedded", "org/name", "./here/name", "./x.parquet", "/abs/x.tar", "./a.tar::./b.tar", "./org/x.json",
    ]  # fmt: skip


def test_columns_splits_and_subsets_of_each_source(tmp_path: Path) -> None:
    asked: list[DataConfig] = []

    def opener(data: str, image_root: Path | None, options: DataConfig, flag: str) -> Source:
        asked.append(options)
        return open_toy(data, image_root, options, flag)

    text = """
    sources:
    - {data: x1, caption_column: title, image_column: img, split: val, subset: s}
    - {data: x1, caption_column: talk}
    - {data: x1}
    """
    source = open_mixture(written(tmp_path / "m.yml", text), OPTIONS, opener, is_hub_name)
    assert [(o.image_column, o.caption_column, o.split, o.subset) for o in asked] == [
        ("img", "title", "val", "s"), (None, "talk", "train", None), (None, None, "train", None),
    ]  # fmt: skip
    titled, talk, plain = (record.fields for record in source.records)
    assert titled["caption"] == "a title"
    assert talk["conversations"] == [{"from": "gpt", "value": "v"}]
    assert "caption" not in talk
    assert plain["caption"] == "usual"


def test_mixtures_of_mixtures(tmp_path: Path) -> None:
    written(tmp_path / "in" / "in.toml", '[[sources]]\ndata = "x2"\nweight = 3\n[[sources]]\ndata = "y1"')
    outer = written(tmp_path / "m.yaml", "sources: [{data: in/in.toml, weight: 0.5}, {data: z1}]")
    source = open_mixture(outer, OPTIONS, open_toy, is_hub_name)
    assert source.parts == (Part("in/in.toml: x2", 1.5, 2), Part("in/in.toml: y1", 0.5, 1), Part("z1", 1.0, 1))
    assert [record.place for record in source.records] == ["in/f:0", "in/f:1", "in/f:0", "f:0"]
    assert source.reader(1).decode().startswith(f"{tmp_path}/in/x2")


def test_mixtures_that_lead_back_to_themselves(tmp_path: Path) -> None:
    written(tmp_path / "a.toml", '[[sources]]\ndata = "d/b.yaml"')
    written(tmp_path / "d" / "b.yaml", "sources: [{data: ../a.toml}]")
    with pytest.raises(UserError, match=r"a\.toml leads back to itself"):
        open_mixture(tmp_path / "a.toml", OPTIONS, open_toy, is_hub_name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[sources]]\ndata = 'x1'\nweigth = 2", 'Source 1 .* "weigth", which is none of data, image_root, weight'),
        ("[[sources]]\ndata = 'x1'\nweight = 0", "weight 0, but it is a number above 0"),
        ("[[sources]]\ndata = 'x1'\nweight = -1.5", "weight -1.5, but"),
        ("[[sources]]\ndata = 'x1'\nweight = nan", "weight nan, but"),
        ("[[sources]]\ndata = 'x1'\nweight = inf", "weight inf, but"),
        ("[[sources]]\ndata = 'x1'\nweight = true", "weight True, but"),
        ("[[sources]]\ndata = 'x1'\nweight = '2'", "weight '2', but"),
        ("[[sources]]\nweight = 1", "has no data"),
        ("[[sources]]\ndata = 3", "data 3, but it is a text"),
        ("[[sources]]\ndata = ' '", "data ' ', but it is a text"),
        ("seed = 1\n[[sources]]\ndata = 'x1'", "nothing else"),
        ("sources = []", "must hold .* tables"),
        ("sources = ['x1']", "must hold"),
        ("", "must hold"),
        ("[[sources", "can't be read .*array"),
        (b"\xff", "can't be read"),
    ],
)
def test_mistakes(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "m.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        open_mixture(tmp_path / "m.toml", OPTIONS, open_toy, is_hub_name)


@pytest.mark.parametrize("text", ["sources: [", "!!python/object/apply:os.getpid []", "- data: x", "sources: x", ""])
def test_mistakes_in_yaml(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="The mixture"):
        open_mixture(written(tmp_path / "m.yaml", text), OPTIONS, open_toy, is_hub_name)


def test_flags_that_name_columns_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.toml", TOML)
    with pytest.raises(UserError, match=r"caption-column is title, .* write caption_column at its sources"):
        open_mixture(path, DataConfig(caption_column="title"), open_toy, is_hub_name)
