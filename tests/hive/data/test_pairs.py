"""Sources: each official layout is read, and each mistake is named in one sentence at open."""

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hive.data.pairs import Pairs, open_pairs, split_heldout
from hive.errors import UserError
from tests.support.pairs_on_the_spot import CAPTIONS, add, encoded

GOOD = {"id": "1", "image": "images/1.png", "caption": "one"}


def contents(pairs: Pairs) -> list[tuple[str, str, bytes]]:
    again = pickle.loads(pickle.dumps(pairs))
    assert again.fingerprint == pairs.fingerprint
    order = reversed(range(len(pairs)))
    return [(again.name(i), again.captions[i], again.read(i)) for i in order][::-1]


def test_llava_conversations_and_captions(llava: Callable[..., Path], tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "zero"},
        {"from": "human", "value": "More?"},
        {"from": "gpt", "value": "no"},
    ]
    path = llava([{"id": 7, "image": "images/0.png", "conversations": turns}, GOOD])
    expected = [("images/0.png", "zero", encoded(0)), ("images/1.png", "one", encoded(1))]
    assert contents(open_pairs(str(path))) == expected
    (tmp_path / "images" / "a b%20ü.png").write_bytes(encoded(9))
    path = llava([{"image": "a b%20ü.png", "caption": "nine"}])
    assert contents(open_pairs(str(path), tmp_path / "images")) == [("a b%20ü.png", "nine", encoded(9))]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ('[{"image": "images/0.png",\n "caption": }]', "line 2"),
        ('{"image": "a"}\n{"image": "b"}', "line 2"),
        ({"image": "images/0.png"}, "list of records"),
        ("[" * 100_000, "nested|JSON"),
        ([], "no pairs"),
        ([GOOD, 3], "Record 1 .* not an object"),
        ([GOOD, {"id": "x9", "caption": "no image"}], r'Record 1 .*x9.* no "image"'),
        ([{"image": "images/0.png"}], 'neither "caption" nor'),
        ([{"image": "images/0.png", "conversations": [{"from": "human", "value": "?"}]}], "no turn"),
        ([GOOD, {"id": "x9", "image": "images/0.png", "caption": " \n"}], "Record 1 .*x9.*empty caption"),
        ([{"image": "images/../../0.png", "caption": "c"}], "leaves the image root"),
        ([{"image": "/etc/passwd", "caption": "c"}], "leaves the image root"),
        ([{"image": "a\0b", "caption": "c"}], "leaves the image root"),
        ([{"image": "https://example.org/a.png", "caption": "c"}], "URL"),
        ([{"image": "images/7.png", "caption": "c"}], "images/7.png, which is not a file"),
        ([{"image": "images", "caption": "c"}], "not a file"),
        ([{"image": "images/1.png", "caption": "c\ud800"}], "surrogate"),
    ],
)
def test_llava_mistakes(llava: Callable[..., Path], records: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_pairs(str(llava(records)))


def test_links_are_followed_before_the_root_is_checked(llava: Callable[..., Path], tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "9.png").write_bytes(encoded(9))
    path = llava([{"image": "images/link.png", "caption": "c"}])
    link = tmp_path / "images" / "link.png"
    link.symlink_to(tmp_path / "images" / "1.png")
    assert open_pairs(str(path)).read(0) == encoded(1)
    link.unlink()
    link.symlink_to(outside / "9.png")
    with pytest.raises(UserError, match="leaves the image root"):
        open_pairs(str(path))
    link.unlink()
    link.symlink_to(outside)
    path = llava([{"image": "images/link.png/9.png", "caption": "c"}])
    with pytest.raises(UserError, match="leaves the image root"):
        open_pairs(str(path))


def shard(path: Path, members: dict[str, bytes | str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            add(archive, name, data)
    return path


def test_tar_folder_glob_and_file(tmp_path: Path) -> None:
    shard(
        tmp_path / "00.tar",
        {
            "./": "",
            "./v1.5/000.jpg": encoded(0, "JPEG"),
            "./v1.5/000.txt": "zero",
            "./v1.5/000.json": '{"caption": "not this"}',
        },
    )
    shard(tmp_path / "01.tar", {"000.json": '{"caption": "one", "url": "x"}', "000.webp": encoded(1, "WEBP")})
    expected = [("00.tar:./v1.5/000.jpg", "zero", encoded(0, "JPEG")), ("01.tar:000.webp", "one", encoded(1, "WEBP"))]
    assert contents(open_pairs(str(tmp_path))) == expected
    assert contents(open_pairs(str(tmp_path / "*.tar"))) == expected
    assert contents(open_pairs(str(tmp_path / "01.tar"))) == expected[1:]


def test_shards_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder in ("train", "more"):
        (tmp_path / folder).mkdir()
        shard(tmp_path / folder / "0.tar", {"0.png": encoded(0, "PNG"), "0.txt": "zero"})
    names = ["more/0.tar:0.png", "train/0.tar:0.png"]
    assert open_pairs(str(tmp_path / "*" / "0.tar")).names == names
    assert open_pairs(str(tmp_path / "m*" / "0.tar")).names == ["0.tar:0.png"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"x", "a.txt": "t", "a.pkl": b"x"}, "a.pkl .* none of the expected kinds"),
        ({"/a.png": b"x", "/a.txt": "t"}, "/a.png .* leaves the archive"),
        ({"../a.png": b"x", "../a.txt": "t"}, "leaves the archive"),
        ({"a.png": b"x"}, "a.png .* has no caption"),
        ({"a.txt": "t"}, "a.txt .* has no image"),
        ({"a.png": b"x", "a.jpg": b"x", "a.txt": "t"}, "a.jpg .* repeats the key"),
        ({"a.png": b"x", "a.txt": " \n"}, "a.txt .* empty"),
        ({"a.png": b"x", "a.txt": b"\xff"}, "a.txt .* not valid UTF-8"),
        ({"a.png": b"x", "a.json": '{"caption": null}'}, "a.json .* no caption"),
        ({"a.png": b"x", "a.json": "{"}, "a.json .* not valid"),
        ({"a.png": b"x", "a.json": '{"caption": "\\ud800"}'}, "a.json .* surrogate"),
        ({}, "no pairs"),
    ],
)
def test_tar_mistakes(tmp_path: Path, members: dict[str, bytes | str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_pairs(str(shard(tmp_path / "0.tar", members)))


def test_tar_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add(archive, "a.txt", "t")
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(UserError, match=r"a\.png .* is a link"):
        open_pairs(str(tmp_path))


def test_damaged_tars(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {"a.png": encoded(0), "a.txt": "t", "b.png": encoded(1), "b.txt": "t"}
    whole = shard(tmp_path / "0.tar", members).read_bytes()
    size = 512 + -(-len(encoded(0)) // 512) * 512  # of a picture with its header
    middle = size + 2 * 512
    damaged = whole[:middle] + b"damage" + whole[middle + 6 :]
    for data in (whole[: middle + 600], whole[:middle], whole[: middle + size + 3], damaged, b"", b"x" * 600):
        (tmp_path / "0.tar").write_bytes(data)
        with pytest.raises(UserError, match="cut off"):
            open_pairs(str(tmp_path))
    (tmp_path / "0.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(UserError, match="gzip"):
        open_pairs(str(tmp_path))


def test_parquet_layouts(tmp_path: Path) -> None:
    images = [encoded(number) for number in range(5)]
    plain = pa.table({"image": pa.array(images, pa.binary()), "caption": CAPTIONS[:5], "extra": range(5)})
    struct = pa.array(
        [{"bytes": data, "path": None} for data in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    nested = pa.table({"image": struct, "text": CAPTIONS[:5]})
    for table, statistics in ((plain, True), (nested, True), (nested, False)):
        pq.write_table(table, tmp_path / "d.parquet", row_group_size=2, write_statistics=statistics)
        expected = [(f"d.parquet:{row}", CAPTIONS[row], images[row]) for row in range(5)]
        assert contents(open_pairs(str(tmp_path / "d.parquet"))) == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"img": pa.array([b"x"]), "caption": ["c"]}, "columns img, caption"),
        ({"image": pa.array([b"x"])}, "columns image,"),
        ({"image": ["x"], "caption": ["c"]}, '"image" .* is string'),
        ({"image": pa.array([b"x"]), "caption": [1]}, '"caption" .* is int64'),
        ({"image": pa.array([b"x", None]), "caption": ["c", "d"]}, "Row 1 .* no image"),
        (
            {
                "image": pa.array(
                    [{"bytes": None, "path": "p"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
                ),
                "caption": ["c"],
            },
            "Row 0 .* no image",
        ),
        ({"image": pa.array([b"x", b"y"]), "caption": ["c", None]}, "Row 1 .* empty caption"),
        ({"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}, "no pairs"),
    ],
)
@pytest.mark.parametrize("statistics", [True, False])
def test_parquet_mistakes(tmp_path: Path, columns: dict[str, object], message: str, statistics: bool) -> None:
    pq.write_table(pa.table(columns), tmp_path / "d.parquet", write_statistics=statistics)
    with pytest.raises(UserError, match=message):
        open_pairs(str(tmp_path / "d.parquet"))


def test_sources_that_are_none(tmp_path: Path, llava: Callable[..., Path]) -> None:
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "d.csv").write_text("a,b")
    (tmp_path / "empty").mkdir()
    for data, message in (
        ("d.parquet", "can't be read as Parquet"),
        ("d.csv", "no known kind"),
        ("nope", "not exist"),
        ("nope.json", "not exist"),
        ("*.tar", "matches no file"),
        ("empty", "without .tar files"),
    ):
        with pytest.raises(UserError, match=message):
            open_pairs(str(tmp_path / data))
    with pytest.raises(UserError, match="no split named unseen"):
        open_pairs("embedded", split="unseen")
    with pytest.raises(UserError, match="image-root"):
        open_pairs(str(llava([GOOD])), tmp_path / "nowhere")


def test_fingerprint_sees_texts_and_names_but_not_the_place(llava: Callable[..., Path], tmp_path: Path) -> None:
    first = open_pairs(str(llava([GOOD]))).fingerprint
    assert open_pairs(str(llava([{**GOOD, "caption": "two"}]))).fingerprint != first
    assert open_pairs(str(llava([{**GOOD, "image": "images/2.png"}]))).fingerprint != first
    copy = tmp_path / "copy"
    copy.mkdir()
    os.rename(tmp_path / "images", copy / "images")
    (copy / "other.json").write_text(json.dumps([GOOD]))
    assert open_pairs(str(copy / "other.json")).fingerprint == first


def test_heldout_keeps_an_image_on_one_side(llava: Callable[..., Path]) -> None:
    records = [{"image": f"images/{number % 20}.png", "caption": f"caption {number}"} for number in range(60)]
    pairs = open_pairs(str(llava(records, images=20)))
    train, heldout = split_heldout(pairs, 512, seed=0)
    assert (len(train), len(heldout)) == (54, 6)
    assert not set(train.names) & set(heldout.names)
    assert sorted([*train.captions, *heldout.captions]) == sorted(pairs.captions)
    assert heldout.read(3) == encoded(int(heldout.captions[3].split()[1]) % 20)
    assert split_heldout(pairs, 512, seed=0)[1].fingerprint == heldout.fingerprint
    assert split_heldout(pairs, 512, seed=1)[1].fingerprint != heldout.fingerprint
    with pytest.raises(UserError, match="at least 4"):
        split_heldout(pairs.take([0, 1, 2]), 2, seed=0)


def test_tar_bytes_beyond_the_end_mark_do_not_matter(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, "a.png", encoded(0))
        add(archive, "a.txt", "t")
    (tmp_path / "0.tar").write_bytes(buffer.getvalue() + bytes(10_240))
    assert len(open_pairs(str(tmp_path))) == 1
