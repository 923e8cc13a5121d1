"""Parquet files as data sets on Hugging Face and people's scripts write them."""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hive.data.source import BadRecord, Columns, OtherRecord, Source, field
from hive.data.sources.parquet import ParquetReader, open_parquet
from hive.errors import UserError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGES = [b"zero", b"one", b"two", b"three", b"four"]
TEXTS = [f"text {number}" for number in range(5)]
COLUMNS = Columns()


class Store:
    """Images in memory."""

    def __init__(self, **images: bytes) -> None:
        self.images = images

    def find(self, image: str) -> str:
        if image not in self.images:
            raise BadRecord(f"{image} is not there")
        return f"found/{image}"

    def read(self, name: str) -> bytes:
        return self.images[name.removeprefix("found/")]

    def suggest(self, image: str) -> str:
        return ""


def written(path: Path, table: dict[str, Any] | pa.Table, **options: Any) -> Path:
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)
    return path


def opened(*files: Path, columns: Columns = COLUMNS, images: Store | None = None) -> Source:
    return open_parquet(files, files[0].parent, images, columns)


def contents(source: Source, column: str) -> list[tuple[str, bytes | None, object]]:
    """(place, image, text) of each record, the images read in the reverse order."""
    records = list(source.records)
    assert len(records) == source.count
    assert not [record.fault for record in records if record.fault]
    reader = pickle.loads(pickle.dumps(source.reader))
    images = [reader(row) if records[row].image is not None else None for row in reversed(range(len(records)))][::-1]
    return [(record.place, image, field(record.fields, column))
            for record, image in zip(records, images, strict=True)]  # fmt: skip


def structs(images: Sequence[bytes | None], paths: Sequence[str | None] | None = None) -> pa.Array:
    names = paths or [None] * len(images)
    return pa.array([{"bytes": data, "path": path} for data, path in zip(images, names, strict=True)], IMAGE)


def writes_views() -> bool:
    try:
        pq.write_table(pa.table({"view": pa.array([b"x"], pa.binary_view())}), io.BytesIO())
    except pa.ArrowNotImplementedError:
        return False
    return True


EXPECTED = [(f"d.parquet:{row}", IMAGES[row], TEXTS[row]) for row in range(5)]


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize(
    ("image", "text"),
    [
        (pa.array(IMAGES), pa.array(TEXTS)),
        (structs(IMAGES), pa.array(TEXTS)),
        (pa.array(IMAGES, pa.large_binary()), pa.array(TEXTS, pa.large_string())),
        pytest.param(
            pa.array(IMAGES).cast(pa.binary_view()),
            pa.array(TEXTS).cast(pa.string_view()),
            marks=pytest.mark.skipif(not writes_views(), reason="this pyarrow writes no views"),
        ),
        (pa.array(IMAGES).dictionary_encode(), pa.array(TEXTS).dictionary_encode()),
        (pa.array([[data] for data in IMAGES]), pa.array(TEXTS)),
        (pa.array([[{"bytes": data, "path": "p"}] for data in IMAGES], pa.large_list(IMAGE)), pa.array(TEXTS)),
    ],
)
def test_types_of_images_and_texts(tmp_path: Path, image: pa.Array, text: pa.Array, statistics: bool) -> None:
    table = {"extra": range(5), "image": image, "text": text}
    path = written(tmp_path / "d.parquet", table, row_group_size=2, write_statistics=statistics)
    assert contents(opened(path), "text") == EXPECTED


def test_files_in_the_hubs_layout(tmp_path: Path) -> None:
    """Columns in another order, another type of text, no rows, and row groups without any."""
    one = written(tmp_path / "train-00000-of-00003.parquet", {"image": structs(IMAGES[:2]), "text": TEXTS[:2]})
    none = {"image": structs([]), "text": pa.array([], pa.string())}
    two = written(tmp_path / "train-00001-of-00003.parquet", none)
    table = pa.table({"id": [1, 2, 3], "text": pa.array(TEXTS[2:]).dictionary_encode(), "image": structs(IMAGES[2:])})
    three = tmp_path / "train-00002-of-00003.parquet"
    with pq.ParquetWriter(three, table.schema) as writer:
        for start, length in ((0, 1), (1, 0), (1, 2)):
            writer.write_table(table.slice(start, length))
    assert pq.ParquetFile(three).num_row_groups == 3
    places = [f"train-0000{file}-of-00003.parquet:{row}" for file, row in ((0, 0), (0, 1), (2, 0), (2, 1), (2, 2))]
    assert contents(opened(one, two, three), "text") == list(zip(places, IMAGES, TEXTS, strict=True))
    assert opened(two).count == 0
    lacking = written(tmp_path / "train-00003.parquet", {"img": structs(IMAGES), "text": TEXTS})
    with pytest.raises(UserError, match=r"00003\.parquet has the columns img, text, but no \"image\""):
        opened(one, lacking, columns=Columns(image="image"))


def test_conversations_as_llava_next_stores_them(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    kind = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    table = {
        "id": ["7", "8"],
        "conversations": pa.array([turns, turns[::-1]], kind),
        "data_source": ["a", "b"],
        "image": pa.array([{"bytes": b"x", "path": "7.jpg"}, None], IMAGE),
    }
    path = written(tmp_path / "d.parquet", table)
    assert contents(opened(path), "conversations") == [
        ("d.parquet:0", b"x", turns),
        ("d.parquet:1", None, turns[::-1]),
    ]
    lists = {"from": ["human", "gpt"], "value": ["<image>\nWhat?", "A cat."]}  # as a Sequence of a dict is stored
    kind = pa.struct([("from", pa.list_(pa.string())), ("value", pa.list_(pa.string()))])
    path = written(tmp_path / "e.parquet", {"image": [b"x"], "conversations": pa.array([lists], kind)})
    assert contents(opened(path), "conversations") == [("e.parquet:0", b"x", turns)]


def test_other_texts(tmp_path: Path) -> None:
    """Several captions, a null beside a good text, messages, and texts inside a struct."""
    table = {
        "image": IMAGES[:2],
        "captions": [["a", "b"], []],
        "caption": pa.array([None, "c"], pa.string()),
        "text": ["t", None],
        "messages": [[{"role": "user", "content": "hi"}], None],
        "meta": [{"text": {"en": "inner"}, "n": 1}, {"text": None, "n": 2}],
        "flat.name": ["f", "g"],
    }
    path = written(tmp_path / "d.parquet", table)
    first, second = (record.fields for record in opened(path).records)
    assert first == {"captions": ["a", "b"], "caption": None, "text": "t", "messages": table["messages"][0]}
    assert second == {"captions": [], "caption": "c", "text": None, "messages": None}
    for name, values in (("meta.text.en", ["inner", None]), ("flat.name", ["f", "g"])):
        assert [row[2] for row in contents(opened(path, columns=Columns(caption=name)), name)] == values


def test_images_inside_a_struct_named_by_a_flag(tmp_path: Path) -> None:
    table = {"data": [{"img": {"bytes": data, "path": None}, "txt": text} for data, text in zip(IMAGES, TEXTS)]}  # noqa: B905
    path = written(tmp_path / "d.parquet", table)
    assert contents(opened(path, columns=Columns("data.img", "data.txt")), "data.txt") == EXPECTED


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("is_list", [True, False])
def test_bytes_beside_paths_beside_nothing(tmp_path: Path, is_list: bool, statistics: bool) -> None:
    cells: list[Any] = [{"bytes": b"x", "path": "x.jpg"}, None, {"bytes": None, "path": "y.jpg"},
                        {"bytes": None, "path": None}, {"bytes": None, "path": "gone.jpg"}]  # fmt: skip
    column = pa.array([cell and [cell] for cell in cells], pa.list_(IMAGE)) if is_list else pa.array(cells, IMAGE)
    path = written(tmp_path / "d.parquet", {"image": column, "text": TEXTS}, write_statistics=statistics)
    source = opened(path, images=Store(**{"y.jpg": b"y"}))
    records = list(source.records)
    assert [record.image for record in records] == ["d.parquet:0", None, "found/y.jpg", None, "gone.jpg"]
    assert [str(record.fault) for record in records if record.fault] == ["gone.jpg is not there"]
    assert (source.reader(0), source.reader(2)) == (b"x", b"y")
    for row in (1, 4):
        with pytest.raises(OSError, match=r"no image|not there"):
            source.reader(row)
    assert "--image-root" in str(list(opened(path).records)[2].fault)


def test_lists_of_one_image_some_empty(tmp_path: Path) -> None:
    """Counted nulls are those of empty lists, so that no image is read to know it."""
    column = pa.array([[{"bytes": b"x", "path": None}], [], None, [None]], pa.list_(IMAGE))
    path = written(tmp_path / "d.parquet", {"images": column, "text": TEXTS[:4]})
    source = opened(path)
    assert [record.image for record in source.records] == ["d.parquet:0", None, None, None]
    assert not source.reader._cached  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [IMAGE, pa.binary()], ids=str)
def test_several_images_are_said(tmp_path: Path, kind: pa.DataType) -> None:
    one, two = (b"x", b"y") if kind == pa.binary() else ({"bytes": b"x", "path": None}, {"bytes": b"y", "path": "y"})
    column = pa.array([[one], [one, two], []], pa.list_(kind))
    path = written(tmp_path / "d.parquet", {"images": column, "text": TEXTS[:3]})
    records = list(opened(path).records)
    assert [record.image for record in records] == ["d.parquet:0", "d.parquet:1", None]
    assert [str(record.fault) for record in records if record.fault] == ["has 2 images, but a pair has one"]
    assert isinstance(records[1].fault, OtherRecord)


def test_paths_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "d.parquet", {"file_name": ["y.jpg", "gone.jpg"], "text": TEXTS[:2]})
    source = opened(path, images=Store(**{"y.jpg": b"y"}))
    good, bad = source.records
    assert (good.image, good.fault, source.reader(0)) == ("found/y.jpg", None, b"y")
    assert str(bad.fault) == "gone.jpg is not there"
    with pytest.raises(UserError, match=r"paths: give .* --image-root"):
        opened(path)


def test_a_text_that_is_not_utf8_is_one_bad_record(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff", b"also"]).view(pa.string())
    records = list(opened(written(tmp_path / "d.parquet", {"image": IMAGES[:3], "text": texts})).records)
    assert [record.fields.get("text") for record in records] == ["good", None, "also"]
    assert [record.place for record in records if record.fault] == ["d.parquet:1"]


def test_the_cache_holds_groups_of_all_files_within_its_limit(tmp_path: Path) -> None:
    big = [bytes([number]) * 1000 for number in range(2)]
    files = [written(tmp_path / f"{number}.parquet", {"image": big, "text": TEXTS[:2]}, row_group_size=1)
             for number in range(4)]  # fmt: skip
    reader = opened(*files).reader
    assert isinstance(reader, ParquetReader)
    reader = ParquetReader(reader.files, None, cache_bytes=5 * 1100)
    assert all(reader(row) == big[row % 2] for row in (0, 7, 1, 6, 2, 5, 7, 3, 4))
    assert list(reader._cached) == [2, 5, 7, 3, 4]


def test_a_file_without_any_image_beside_others(tmp_path: Path) -> None:
    """Arrow gives a column of nothing the type null."""
    files = [written(tmp_path / "0.parquet", {"image": IMAGES[:1], "text": TEXTS[:1]}),
             written(tmp_path / "1.parquet", {"image": pa.nulls(2), "text": TEXTS[:2]})]  # fmt: skip
    assert [record.image for record in opened(*files).records] == ["0.parquet:0", None, None]


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ({"a": [1], "text": ["t"]}, COLUMNS, "columns a, text, none .* an image: .* --dataset.image-column"),
        ({"image": [b"x"], "label": [1]}, COLUMNS, "columns image, label, none .* texts: .* --dataset.caption-column"),
        ({"image": [1], "text": ["t"]}, COLUMNS, '"image" of .* is int64, but images are bytes'),
        ({"image": [{"x": 1}], "text": ["t"]}, COLUMNS, '"image" of .* is struct'),
        ({"image": [b"x"], "text": ["t"]}, Columns(caption="meta.text"), 'no "meta.text", which --dataset.caption-col'),
        ({"image": [b"x"], "text": ["t"]}, Columns(image="img"), 'no "img", which --dataset.image-column'),
    ],
)
def test_files_without_the_columns(tmp_path: Path, table: dict[str, Any], columns: Columns, message: str) -> None:
    good = written(tmp_path / "a.parquet", {"image": [b"x"], "img": [b"x"], "text": ["t"], "meta": [{"text": "t"}]})
    with pytest.raises(UserError, match=message) as error:
        opened(good, written(tmp_path / "b.parquet", table), columns=columns)
    assert "b.parquet" in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    whole = written(tmp_path / "d.parquet", {"image": [b"x"], "text": ["t"]}).read_bytes()
    for data in (b"PAR1 no", b"", whole[:-20]):
        (tmp_path / "d.parquet").write_bytes(data)
        with pytest.raises(UserError, match=r"d\.parquet can't be read as Parquet"):
            opened(tmp_path / "d.parquet")
    with pytest.raises(UserError, match="does not exist"):
        opened(tmp_path / "none.parquet")
