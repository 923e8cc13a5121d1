"""Images by path: what is found below a folder and in an LMDB, what is missing, and what is refused."""

import multiprocessing
import os
import pickle
from pathlib import Path
from unicodedata import normalize

import lmdb
import pytest

from hive.data.source import BadRecord
from hive.data.sources.image_store import FolderStore, ImageStore, LmdbStore, MissingImage, open_store
from hive.errors import UserError

NFC, NFD = (normalize(form, "fotos_ü/é.jpg") for form in ("NFC", "NFD"))


def write(root: Path, *names: str) -> Path:
    """Files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def write_lmdb(path: Path, *keys: str, is_file: bool = False) -> Path:
    with lmdb.open(str(path), subdir=not is_file) as environment, environment.begin(write=True) as transaction:
        for key in keys:
            transaction.put(key.encode(), key.encode())
    return path


def read_elsewhere(store: ImageStore, names: list[str]) -> list[bytes]:
    """What another process reads with the pickled store."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(store.read, names)


FOUND = {
    "photos/0.jpg": "photos/0.jpg",
    "./photos/0.jpg": "photos/0.jpg",
    "photos/../photos//0.jpg": "photos/0.jpg",
    "photos\\0.jpg": "photos/0.jpg",
    ".\\photos\\0.jpg": "photos/0.jpg",
    " photos/0.jpg": "photos/0.jpg",
    "a b%20c.jpg": "a b%20c.jpg",
    NFC: NFD,
    NFD: NFD,
}
FILES = ("photos/0.jpg", "a b%20c.jpg", NFD, "Upper.JPG", "real\\name.jpg")


@pytest.mark.parametrize("kind", ["folder", "lmdb"])
def test_what_is_found(tmp_path: Path, kind: str) -> None:
    root = write(tmp_path / "root", *FILES) if kind == "folder" else write_lmdb(tmp_path / "images.lmdb", *FILES)
    store = open_store(root)
    for image, name in {**FOUND, "real\\name.jpg": "real\\name.jpg"}.items():
        assert store.find(image) == name, image
        assert store.read(name) == name.encode()
    for image in ("photos/1.jpg", "a b c.jpg", "upper.jpg", "photos", "x" * 5000 + ".jpg", "."):
        with pytest.raises(MissingImage, match="its image is"):
            store.find(image)
    with pytest.raises(BadRecord, match="no path"):
        store.find("a\ud800.jpg")


def test_an_absolute_path_below_the_root_is_found(tmp_path: Path) -> None:
    store = open_store(write(tmp_path, "photos/0.jpg"))
    assert store.find(f"{tmp_path}/photos/0.jpg") == "photos/0.jpg"
    assert store.find(f"file://{tmp_path}/photos/0.jpg") == "photos/0.jpg"


def test_a_folder_refuses_what_leaves_it(tmp_path: Path) -> None:
    write(tmp_path, "outside/0.jpg", "root/1.jpg")
    (tmp_path / "root/link.jpg").symlink_to("../outside/0.jpg")
    (tmp_path / "root/inner.jpg").symlink_to("1.jpg")
    (tmp_path / "root/nothing.jpg").symlink_to("gone.jpg")
    (tmp_path / "root/folder").symlink_to("../outside")
    store = open_store(tmp_path / "root")
    assert store.read(store.find("inner.jpg")) == b"root/1.jpg"
    with pytest.raises(MissingImage):
        store.find("nothing.jpg")
    for image in ("../outside/0.jpg", "..\\outside\\0.jpg", "/etc/passwd", "link.jpg", "folder/0.jpg", "a/../../x.jpg"):
        with pytest.raises(UserError, match=r"leaves the image root .* set --image-root"):
            store.find(image)
    for image, reason in (
        ("https://example.org/a.png", "URL"),
        ("data:image/png;base64,x", "URL"),
        ("a\0b", "no path"),
    ):
        with pytest.raises(BadRecord, match=reason):
            store.find(image)


def test_a_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(str(write(tmp_path, *(f"{number}.jpg" for number in range(50)))))
    listed: list[str] = []
    scandir = os.scandir

    def count(path: str) -> object:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", count)
    for number in range(60):
        try:
            store.find(f"{number}.jpg")
        except MissingImage:
            assert number >= 50
    assert listed == [str(tmp_path)]
    assert len(pickle.dumps(store)) < 300


@pytest.mark.parametrize("form", ["folder", "file", "data.mdb"])
def test_the_forms_of_an_lmdb(tmp_path: Path, form: str) -> None:
    path = write_lmdb(tmp_path / "images.lmdb", "a/0.jpg", "b.jpg", is_file=form == "file")
    path.chmod(0o500 if form == "folder" else 0o700)
    before = sorted(tmp_path.rglob("*"))
    store = open_store(path / "data.mdb" if form == "data.mdb" else path)
    assert isinstance(store, LmdbStore)
    names = [store.find("a/0.jpg"), store.find("b.jpg")]
    assert [store.read(name) for name in names] == [b"a/0.jpg", b"b.jpg"]
    assert open_store(path).find("b.jpg") == "b.jpg"  # an LMDB that is open already in this process
    if form == "folder":
        assert read_elsewhere(store, names) == [b"a/0.jpg", b"b.jpg"]
    with pytest.raises(OSError, match="lacks it"):
        store.read("c.jpg")
    assert sorted(tmp_path.rglob("*")) == before  # no lock is written


def test_roots_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor an LMDB"):
        open_store(tmp_path / "nowhere")
    (tmp_path / "x.lmdb").write_bytes(b"no LMDB" * 1000)
    with pytest.raises(UserError, match="can't be read as an LMDB"):
        open_store(tmp_path / "x.lmdb")


def test_suggestions(tmp_path: Path) -> None:
    """Where the root is one folder too deep, one too high, or lacks what the paths begin with."""
    write(tmp_path, "data/photos/0.jpg")
    assert f"give --image-root {tmp_path}/data" in open_store(tmp_path / "data/photos").suggest("photos/0.jpg")
    assert f"give --image-root {tmp_path}/data" in open_store(tmp_path).suggest("photos\\0.jpg")
    assert "has 0.jpg without coco/train in front" in open_store(tmp_path / "data/photos").suggest("coco/train/0.jpg")
    assert "set --image-root" in open_store(tmp_path).suggest("1.jpg")
    store = open_store(write_lmdb(tmp_path / "images.lmdb", "train/0.jpg"))
    assert "its first key is b'train/0.jpg'" in store.suggest("0.jpg")


def test_a_link_to_nothing_is_a_missing_image_wherever_it_leads(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "gone.jpg").symlink_to(tmp_path / "elsewhere" / "gone.jpg")
    with pytest.raises(MissingImage):
        open_store(tmp_path / "root").find("gone.jpg")
