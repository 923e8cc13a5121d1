"""Pairs of each official layout: what is wrong with a record skips it, what is wrong with a source is refused."""

import hashlib
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

from hive.config import DataConfig
from hive.data.open_source import EMBEDDED
from hive.data.order import indices
from hive.data.pairs import EMBEDDED_HELDOUT, Pairs, open_embedded, open_pairs, split_heldout
from hive.errors import UserError
from tests.support.pairs_on_the_spot import CAPTIONS, add, encoded, shard

GOOD = {"id": "1", "image": "images/1.png", "caption": "one"}


def opened(data: Path, image_root: Path | None = None, **options: str) -> Pairs:
    return open_pairs(str(data), image_root, DataConfig(**options))  # type: ignore[arg-type]


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
    assert contents(opened(path)) == expected
    (tmp_path / "images" / "a b%20ü.png").write_bytes(encoded(9))
    path = llava([{"image": "a b%20ü.png", "caption": "nine"}])
    assert contents(opened(path, tmp_path / "images")) == [("a b%20ü.png", "nine", encoded(9))]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ('[{"image": "images/0.png",\n "caption": }]', "line 2"),
        ("[" * 100_000, "nested|JSON"),
        ([], "no records"),
        ([GOOD, {"image": "images/../../0.png", "caption": "c"}], "leaves the image root"),
        ([GOOD, {"image": "/etc/passwd", "caption": "c"}], "leaves the image root"),
    ],
)
def test_mistakes_of_a_source_are_refused(llava: Callable[..., Path], records: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(llava(records))


@pytest.mark.parametrize(
    ("record", "reason", "bad"),
    [
        (3, "no object", True),
        ({"id": "x9", "caption": "no image"}, "no image", False),
        ({"image": "images/0.png"}, "no caption", True),
        ({"image": "images/0.png", "conversations": [{"from": "human", "value": "?"}]}, "no answer", True),
        ({"id": "x9", "image": "images/0.png", "caption": " \n"}, "empty", True),
        ({"image": "images/0.png", "caption": 3}, "the number 3, not text", True),
        ({"image": "images/7.png", "caption": "c"}, "missing", True),
        ({"image": "images", "caption": "c"}, "missing", True),
        ({"image": "https://example.org/a.png", "caption": "c"}, "URL", True),
        ({"image": "images/1.png", "caption": "c\ud800"}, "surrogate", True),
    ],
)
def test_a_record_that_cannot_be_used_is_skipped(
    llava: Callable[..., Path], record: object, reason: str, bad: bool
) -> None:
    """The pairs around it keep their images, and a source of such records alone is refused with the reason."""
    pairs = opened(llava([GOOD, record, {"image": "images/2.png", "caption": "two"}]))
    assert contents(pairs) == [("images/1.png", "one", encoded(1)), ("images/2.png", "two", encoded(2))]
    (skipped,) = pairs.skipped
    assert skipped.place.startswith("pairs.json record 1")
    assert ("(id x9)" in skipped.place) == (isinstance(record, dict) and "id" in record)
    assert reason in skipped.reason
    assert skipped.bad == bad
    with pytest.raises(UserError, match=reason):
        opened(llava([record]))


def test_no_usable_record_names_the_first_reason_and_how_many(llava: Callable[..., Path]) -> None:
    records = [{"caption": "no image"}, *[{"image": f"images/{n}.png", "caption": ""} for n in (0, 1)]]
    with pytest.raises(UserError, match=r"None of the 3 records of --data .* 2 of them .* is empty .*record 1;"):
        opened(llava(records))


@pytest.mark.parametrize("epochs", [(0, 1, 2), (7, 8, 9)])
def test_all_captions_of_an_image_get_their_turn(llava: Callable[..., Path], epochs: tuple[int, ...]) -> None:
    texts = ["a", "b", "c"]
    records = [GOOD, *[{"image": f"images/{n}.png", "captions": [f"{text}{n}" for text in texts]} for n in (0, 1, 2)]]
    pairs = opened(llava(records))
    assert pairs.captions == ["one", "a0", "a1", "a2"]
    assert [pairs.texts(index) for index in (0, 1)] == [("one",), ("a0", "b0", "c0")]
    for index in (1, 2, 3):
        assert sorted(pairs.caption(index, epoch) for epoch in epochs) == [f"{text}{index - 1}" for text in texts]
    assert {pairs.caption(0, epoch) for epoch in epochs} == {"one"}
    taken = pairs.take([3, 0])
    assert [taken.texts(index) for index in (0, 1)] == [("a2", "b2", "c2"), ("one",)]
    records[1] = {"image": "images/0.png", "captions": ["a0", "b0", "other"]}
    assert opened(llava(records)).fingerprint != pairs.fingerprint


def test_links_are_followed_before_the_root_is_checked(llava: Callable[..., Path], tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "9.png").write_bytes(encoded(9))
    path = llava([{"image": "images/link.png", "caption": "c"}])
    link = tmp_path / "images" / "link.png"
    link.symlink_to(tmp_path / "images" / "1.png")
    assert opened(path).read(0) == encoded(1)
    link.unlink()
    link.symlink_to(outside / "9.png")
    with pytest.raises(UserError, match="leaves the image root"):
        opened(path)
    link.unlink()
    link.symlink_to(outside)
    path = llava([{"image": "images/link.png/9.png", "caption": "c"}])
    with pytest.raises(UserError, match="leaves the image root"):
        opened(path)


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
    assert contents(opened(tmp_path)) == expected
    assert contents(opened(tmp_path / "*.tar")) == expected
    assert contents(opened(tmp_path / "01.tar")) == expected[1:]


def test_shards_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder in ("train", "more"):
        (tmp_path / folder).mkdir()
        shard(tmp_path / folder / "0.tar", {"0.png": encoded(0, "PNG"), "0.txt": "zero"})
    names = ["more/0.tar:0.png", "train/0.tar:0.png"]
    assert opened(tmp_path / "*" / "0.tar").names == names
    assert opened(tmp_path / "m*" / "0.tar").names == ["0.tar:0.png"]


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
        assert contents(opened(tmp_path / "d.parquet")) == expected


@pytest.mark.parametrize("split", ["train", *EMBEDDED_HELDOUT])
def test_the_embedded_data(split: str) -> None:
    """Against the file; a run that began before records could be skipped has this fingerprint in its checkpoint."""
    rows = pq.read_table(EMBEDDED / f"{split}.parquet").to_pylist()
    pairs = open_embedded(split)
    assert list(pairs.captions) == [row["caption"] for row in rows]
    assert not pairs.skipped
    digest = hashlib.sha256()
    for number, row in enumerate(rows):
        for text in (f"{split}.parquet:{number}", row["caption"]):
            digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
    assert pairs.fingerprint == digest.hexdigest()


def test_fingerprint_sees_texts_and_names_but_not_the_place(llava: Callable[..., Path], tmp_path: Path) -> None:
    first = opened(llava([GOOD])).fingerprint
    assert opened(llava([{**GOOD, "caption": "two"}])).fingerprint != first
    assert opened(llava([{**GOOD, "image": "images/2.png"}])).fingerprint != first
    copy = tmp_path / "copy"
    copy.mkdir()
    os.rename(tmp_path / "images", copy / "images")
    (copy / "other.json").write_text(json.dumps([GOOD]))
    assert opened(copy / "other.json").fingerprint == first


def test_heldout_keeps_an_image_on_one_side(llava: Callable[..., Path]) -> None:
    records = [{"image": f"images/{number % 20}.png", "caption": f"caption {number}"} for number in range(60)]
    pairs = opened(llava(records, images=20))
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
    assert len(opened(tmp_path)) == 1


def test_a_mixture_is_trained_on_by_its_weights(tmp_path: Path) -> None:
    """An epoch passes over each source so often, without what is skipped or held out."""
    for name, number in (("a", 30), ("b", 10)):
        (tmp_path / name).mkdir()
        for place in range(number):
            (tmp_path / name / f"{place}.png").write_bytes(encoded(place))
            (tmp_path / name / f"{place}.txt").write_text("" if place == 3 else f"{name} {place}")
    (tmp_path / "m.toml").write_text('[[sources]]\ndata = "a"\nweight = 0.5\n[[sources]]\ndata = "b"\nweight = 2\n')
    pairs = opened(tmp_path / "m.toml")
    assert [part.size for part in pairs.parts] == [29, 9]
    assert len(pairs.skipped) == 2
    train, held = split_heldout(pairs, 4, 0)
    assert len(held) == 3
    in_a = sum(caption.startswith("a") for caption in train.captions)
    assert [part.size for part in train.parts] == [in_a, 35 - in_a]
    epoch = [train.captions[index][0] for _, index in indices(train.stream, 0, 0, train.epoch_pairs)]
    assert (epoch.count("a"), epoch.count("b")) == (round(0.5 * in_a), 2 * (35 - in_a))
    (tmp_path / "n.toml").write_text((tmp_path / "m.toml").read_text().replace("0.5", "0.6"))
    assert opened(tmp_path / "n.toml").fingerprint != pairs.fingerprint
