"""Shards as webdataset, img2dataset, tar and cat leave them: every sample is read or says why not."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from hive.data.source import Columns, Record, Source
from hive.data.sources.tar import open_tar
from hive.errors import UserError

Members = Iterable[tuple[str, bytes | str]]


def archive(members: Members, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A whole .tar; a name that ends in / is a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as made:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return file.getvalue()


def opened(folder: Path, shards: dict[str, bytes], columns: Columns | None = None) -> Source:
    for name, data in shards.items():
        (folder / name).write_bytes(data)
    return open_tar([folder / name for name in shards], folder, columns or Columns())


def good(source: Source) -> dict[str, tuple[bytes, object]]:
    """Image and caption of each record without a fault, by its place."""
    records = list(source.records)
    assert len(records) == source.count
    reader = pickle.loads(pickle.dumps(source.reader))
    read = {record.place: (reader(row), record.fields["caption"])
            for row, record in enumerate(records) if record.image and record.fault is None}  # fmt: skip
    assert len(read) == sum(record.fault is None for record in records)
    return read


def faults(source: Source) -> dict[str, str]:
    return {record.place: str(record.fault) for record in source.records if record.fault}


def only(source: Source) -> Record:
    (record,) = source.records
    return record


PAIR: list[tuple[str, bytes | str]] = [("a.jpg", b"A"), ("a.txt", "an a")]


def test_keys_are_webdatasets_and_other_members_are_passed_over(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | str]] = [
        ("d/", ""),
        ("d/a.jpg", b"A"),
        ("d/a.seg.jpg", b"mask"),
        ("d/a.TXT", "an a"),
        ("d/a.cls", "7"),
        ("./v1.5/a.webp", b"B"),
        ("./v1.5/a.npy", b"\x93NUMPY"),
        ("./v1.5/a.json", '{"caption": "a b"}'),
        ("__MACOSX/d/a.jpg", b"no"),
        ("d/._a.jpg", b"no"),
        (".DS_Store", b"no"),
        ("README", "no"),
        ("é/" + "long" * 60 + ".jpg", b"C"),
        ("é/" + "long" * 60 + ".txt", "a c"),
    ]
    expected = {
        "0.tar:d/a.jpg": (b"A", "an a"),
        "0.tar:./v1.5/a.webp": (b"B", "a b"),
        f"0.tar:é/{'long' * 60}.jpg": (b"C", "a c"),
    }
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert good(opened(tmp_path, {"0.tar": archive(members, form)})) == expected


def test_images_first_and_texts_in_the_reverse_order(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | str]] = [(f"{n}.png", b"%d" % n) for n in range(4)]
    members += [(f"{n}.txt", f"text {n}") for n in reversed(range(4))]
    expected = {f"0.tar:{n}.png": (b"%d" % n, f"text {n}") for n in range(4)}
    assert good(opened(tmp_path, {"0.tar": archive(members)})) == expected


def test_the_txt_is_the_caption_and_the_json_gives_all_its_fields(tmp_path: Path) -> None:
    fields = {
        "caption": "of the page",
        "title": "a title",
        "url": "u",
        "conversations": [{"from": "gpt", "value": "v"}],
    }
    shard = archive([("a.json", json.dumps(fields)), *PAIR])
    record = only(opened(tmp_path, {"0.tar": shard}))
    assert record.fields == {"caption": "an a", "url": "u", "conversations": fields["conversations"]}
    assert only(opened(tmp_path, {"0.tar": shard}, Columns(caption="title"))).fields["title"] == "a title"
    without = archive([("a.jpg", b"A"), ("a.json", json.dumps(fields))])
    assert only(opened(tmp_path, {"0.tar": without})).fields == fields
    empty = archive([("a.jpg", b"A"), ("a.txt", ""), ("a.json", json.dumps(fields))])
    assert only(opened(tmp_path, {"0.tar": empty})).fields == {"caption": "", "url": "u",
                                                              "conversations": fields["conversations"]}  # fmt: skip
    beside = archive([*PAIR, ("a.json", "{")])
    assert only(opened(tmp_path, {"0.tar": beside})).fields == {"caption": "an a"}


def test_a_flag_names_the_images_extension(tmp_path: Path) -> None:
    shard = archive([("a.jpg", b"A"), ("a.seg.png", b"S"), ("a.txt", "an a")])
    assert good(opened(tmp_path, {"0.tar": shard}, Columns(image=".seg.png"))) == {"0.tar:a.seg.png": (b"S", "an a")}


@pytest.mark.parametrize(
    ("members", "place", "reason"),
    [
        ([("b.png", b"x")], "b.png", "no .txt or .json"),
        ([("b.txt", "t")], "b.txt", "no image"),
        ([("b.json", '{"caption": "t"}')], "b.json", "no image"),
        ([("b.png", b"x"), ("b.jpg", b"x"), ("b.txt", "t")], "b.jpg", "b.png and b.jpg"),
        ([("b.png", b"x"), ("b.png", b"x"), ("b.txt", "t")], "b.png", "b.png and b.png"),
        ([("b.png", b"x"), ("b.txt", b"\xff")], "b.png", "UTF-8"),
        ([("b.png", b"x"), ("b.json", "{")], "b.png", "not valid JSON"),
        ([("b.png", b"x"), ("b.json", "[" * 100_000)], "b.png", "not valid JSON"),
        ([("b.png", b"x"), ("b.json", "[1]")], "b.png", "no object"),
        ([("b.png", b"x"), ("b.txt", "t" * ((1 << 20) + 1))], "b.png", "1048577 bytes"),
        ([("b.1.png", b"x")], "b.1.png", "its key is b: rename"),
    ],
)
def test_a_bad_sample_leaves_the_others(tmp_path: Path, members: Members, place: str, reason: str) -> None:
    shard = archive([*members, *PAIR])
    assert good(opened(tmp_path, {"0.tar": shard})) == {"0.tar:a.jpg": (b"A", "an a")}
    (found,) = faults(opened(tmp_path, {"0.tar": shard})).items()
    assert found[0] == f"0.tar:{place}"
    assert reason in found[1]


def test_names_with_a_second_dot_are_each_told(tmp_path: Path) -> None:
    members = [(f"cat.{number}.{kind}", "x") for number in (1, 2) for kind in ("jpg", "txt")]
    assert len(faults(opened(tmp_path, {"0.tar": archive(members)}))) == 4


def test_a_conversation_without_an_image_has_no_fault(tmp_path: Path) -> None:
    record = only(opened(tmp_path, {"0.tar": archive([("a.json", '{"conversations": [{"from": "gpt"}]}')])}))
    assert (record.place, record.image, record.fault) == ("0.tar:a.json", None, None)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE])
def test_links_devices_and_sparse_files_are_never_read(tmp_path: Path, kind: bytes) -> None:
    file = io.BytesIO(archive(PAIR))
    with tarfile.open(fileobj=file, mode="a") as made:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = kind, "/etc/passwd"
        made.addfile(link)
        text = tarfile.TarInfo("b.txt")
        text.size = 1
        made.addfile(text, io.BytesIO(b"t"))
    assert good(opened(tmp_path, {"0.tar": file.getvalue()})) == {"0.tar:a.jpg": (b"A", "an a")}
    assert "plain files" in faults(opened(tmp_path, {"0.tar": file.getvalue()}))["0.tar:b.png"]


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "d/../../a.cls", "/d/"])
def test_a_name_that_leaves_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="leaves the archive"):
        opened(tmp_path, {"0.tar": archive([*PAIR, (name, "")])})


def test_joined_shards_are_read_to_their_real_end(tmp_path: Path) -> None:
    """Three archives by cat, one with a blocking factor of 100, two with the same member."""
    first, second = archive(PAIR), archive([("a.jpg", b"2"), ("a.txt", "two")])
    third = archive([("c.jpg", b"3"), ("c.txt", "three")])
    read = good(opened(tmp_path, {"0.tar": first + bytes(512 * 100) + second + third}))
    assert list(read.values()) == [(b"A", "an a"), (b"2", "two"), (b"3", "three")]
    assert list(read)[::2] == ["0.tar:a.jpg", "0.tar:c.jpg"]


def test_an_archive_that_tar_has_joined_uses_its_keys_again(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(archive(PAIR, tarfile.GNU_FORMAT))
    (tmp_path / "1.tar").write_bytes(archive([("a.jpg", b"2"), ("a.txt", "two")], tarfile.GNU_FORMAT))
    subprocess.run(["tar", "-A", "-f", tmp_path / "0.tar", tmp_path / "1.tar"], check=True)
    source = open_tar([tmp_path / "0.tar"], tmp_path, Columns())
    assert list(good(source).values()) == [(b"A", "an a"), (b"2", "two")]


def test_what_follows_the_end_mark(tmp_path: Path) -> None:
    whole = archive(PAIR)
    for zeros in (1, 511, 10_240, 3 << 20):
        assert opened(tmp_path, {"0.tar": whole + bytes(zeros)}).count == 1
    for rest in (b"garbage", bytes(512) + b"x" * 600, archive(PAIR)[:700], whole + b"x"):
        with pytest.raises(UserError, match=r"behind its end mark, at \d|damaged at byte \d"):
            opened(tmp_path, {"0.tar": whole + rest})


def test_a_shard_that_is_cut_is_refused_wherever(tmp_path: Path) -> None:
    whole = archive([("a.jpg", b"A" * 600), ("a.txt", "an a")])
    end = 512 + 1024 + 512 + 512
    assert whole[end:] == bytes(len(whole) - end)
    for length in range(0, end + 512, 100):
        with pytest.raises(UserError, match="cut off"):
            opened(tmp_path, {"0.tar": whole[:length]})
    assert opened(tmp_path, {"0.tar": whole[: end + 512]}).count == 1
    for place in (148, 1536 + 148, 1536):  # checksums and a name
        damaged = whole[:place] + b"damage" + whole[place + 6 :]
        with pytest.raises(UserError, match=rf"cut off or damaged at byte {place // 512 * 512}|as a .tar"):
            opened(tmp_path, {"0.tar": damaged})


def test_a_negative_size_ends(tmp_path: Path) -> None:
    """It would lead back to the same header for ever."""
    header = bytearray(archive(PAIR)[:512])
    for size in (b"\xff" * 11 + b"\x00", b"-0000001000\0"):
        header[124:136] = size
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
        with pytest.raises(UserError, match="damaged at byte 1024"):
            opened(tmp_path, {"0.tar": archive(PAIR)[:1024] + bytes(header) + bytes(1024)})


@pytest.mark.parametrize(
    ("name", "data", "command"),
    [
        ("0.tar.gz", gzip.compress(archive(PAIR)), "`gunzip {}`"),
        ("0.tgz", gzip.compress(archive(PAIR)), "`gunzip {}`"),
        ("0.tar", gzip.compress(archive(PAIR)), "`mv {} {}.gz && gunzip {}.gz`"),
        ("0.tar", bz2.compress(archive(PAIR)), "`mv {} {}.bz2 && bunzip2 {}.bz2`"),
        ("0.tar.xz", lzma.compress(archive(PAIR)), "`unxz {}`"),
    ],
)
def test_compressed_shards_are_refused_with_the_command(tmp_path: Path, name: str, data: bytes, command: str) -> None:
    with pytest.raises(UserError, match="compressed") as error:
        opened(tmp_path, {name: data})
    assert command.replace("{}", str(tmp_path / name)) in str(error.value)


def test_places_of_several_shards_begin_at_the_root(tmp_path: Path) -> None:
    for folder in ("train", "more"):
        (tmp_path / folder).mkdir()
    source = opened(tmp_path, {"train/0.tar": archive(PAIR), "more/0.tar": archive(PAIR)})
    assert list(good(source)) == ["train/0.tar:a.jpg", "more/0.tar:a.jpg"]


def test_an_archive_of_nothing_has_no_records(tmp_path: Path) -> None:
    assert opened(tmp_path, {"0.tar": archive([])}).count == 0
    assert good(opened(tmp_path, {"0.tar": archive([("a.cls", "1")])})) == {}
