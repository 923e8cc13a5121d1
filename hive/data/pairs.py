"""Image-caption pairs from any supported source, checked before anything is trained or written."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from hive.data import llava, tar
from hive.errors import UserError

EMBEDDED = Path(__file__).parent / "embedded"
EMBEDDED_HELDOUT = ("seen_style", "unseen_style", "unseen_concept")
SOURCES = '"embedded", a LLaVA JSON file, a folder or glob of webdataset .tar shards, or a .parquet file'


class Reader(Protocol):
    """Random access to encoded images; picklable, and opens nothing before the first call."""

    def __call__(self, row: int) -> bytes:
        """The encoded image of one row of the source; OSError where it can't be read."""


class Skipped(NamedTuple):
    """A record that was left out."""

    place: str
    reason: str
    bad: bool
    """Whether something is wrong with it; otherwise this kind of run has no use for it."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Image-caption pairs: the texts in memory, the images read on demand."""

    captions: Sequence[str]
    """One text a pair, never empty."""
    names: Sequence[str]
    """Where each image is: a path, shard:member, or file:row. Independent of the folder that the data set is in."""
    reader: Reader
    rows: np.ndarray = field(repr=False)
    """Row of the source for each pair, int64 [n]; -1 for a conversation without an image."""
    skipped: Sequence[Skipped] = field(default=(), repr=False)
    """Records that were left out when the source was read."""

    def __len__(self) -> int:
        return len(self.captions)

    def has_image(self, index: int) -> bool:
        """Whether pair `index` has an image; only conversations may have none."""
        return bool(self.rows[index] >= 0)

    def read(self, index: int) -> bytes:
        """The encoded image of pair `index`; OSError where it can't be read."""
        return self.reader(int(self.rows[index]))

    def texts(self, index: int) -> tuple[str, ...]:
        """All captions of pair `index`."""
        return (self.captions[index],)

    def name(self, index: int) -> str:
        """Where the image of pair `index` is, for the ledger."""
        return self.names[index]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all names and captions, in order."""
        digest = hashlib.sha256()
        for name, caption in zip(self.names, self.captions, strict=True):
            for text in (name, caption):
                data = text.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
        return digest.hexdigest()

    def take(self, indices: Sequence[int]) -> "Pairs":
        """The pairs at `indices`, in that order."""
        return replace(
            self,
            captions=[self.captions[i] for i in indices],
            names=[self.names[i] for i in indices],
            rows=self.rows[np.asarray(indices, dtype=np.int64)],
        )


def open_pairs(data: str, image_root: Path | None = None, split: str = "train") -> Pairs:
    """Opens a source and checks every record of it, without decoding images.

    `data` is "embedded" (whose splits are "train" and `EMBEDDED_HELDOUT`), a LLaVA JSON file, a folder or glob of
    webdataset .tar shards, or a .parquet file; `image_root` is where a LLaVA JSON's image paths start (its own folder
    by default). Raises `UserError` for what can't be trained on.
    """
    source = Path(data).expanduser()
    captions: Sequence[str]
    names: Sequence[str]
    reader: Reader
    if data != "embedded" and split != "train":
        raise UserError(
            f"{data} has no split named {split}: only the embedded data has splits; hold pairs "
            "out with --dataset.heldout-pairs."
        )
    if image_root is not None and source.suffix.lower() != ".json":
        raise UserError(f"--image-root goes with a LLaVA JSON file, but --data is {data}: leave --image-root out.")
    if data == "embedded":
        if split not in ("train", *EMBEDDED_HELDOUT):
            raise UserError(
                f"The embedded data has no split named {split}, only train, {', '.join(EMBEDDED_HELDOUT)}: "
                "choose one of those."
            )
        captions, names, reader = _open_parquet(EMBEDDED / f"{split}.parquet")
    elif source.is_dir() or source.suffix.lower() == ".tar" or _is_glob(source):
        captions, names, reader = tar.open_tar(data)
    elif not source.exists():
        raise UserError(f"--data {data} does not exist: give {SOURCES}.")
    elif source.suffix.lower() == ".json":
        captions, names, reader = llava.open_llava(source, image_root)
    elif source.suffix.lower() == ".parquet":
        captions, names, reader = _open_parquet(source)
    else:
        raise UserError(f"--data {data} is of no known kind: give {SOURCES}.")
    if not captions:
        raise UserError(f"--data {data} holds no pairs: give data with at least one image and caption.")
    return Pairs(captions, names, reader, np.arange(len(captions), dtype=np.int64))


def _open_parquet(path: Path) -> tuple[Sequence[str], Sequence[str], Reader]:
    from hive.data.parquet import open_parquet  # it needs pyarrow, which a GPU machine may lack (docs/gpu.md)

    return open_parquet(path)


def _is_glob(source: Path) -> bool:
    return any(mark in str(source) for mark in "*?[") and not source.exists()


def hash_order(names: Sequence[str], seed: int) -> list[int]:
    """Positions of `names` in the order of SHA-256(seed, name): fixed, and unrelated to the order of the file."""
    salt = hashlib.sha256(f"heldout {seed} ".encode())

    def key(position: int) -> bytes:
        digest = salt.copy()
        digest.update(names[position].encode("utf-8", "surrogatepass"))
        return digest.digest()

    return sorted(range(len(names)), key=key)


def split_heldout(pairs: Pairs, count: int, seed: int) -> tuple[Pairs, Pairs]:
    """(train, held out): `count` pairs, but at most a tenth of all (and at least 2), chosen by hash.

    All pairs of one image fall on one side. Raises `UserError` where there are too few pairs to hold any out.
    """
    wanted = max(2, min(count, len(pairs) // 10))
    if len(pairs) < 4:
        raise UserError(f"The data holds {len(pairs)} pairs, but at least 4 are needed, 2 of them held out: add pairs.")
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(pairs.names):
        if pairs.has_image(index):
            groups.setdefault(name, []).append(index)
    unique = list(groups)
    chosen: list[int] = []
    for position in hash_order(unique, seed):
        if len(chosen) + len(group := groups[unique[position]]) <= wanted:
            chosen += group
        if len(chosen) == wanted:
            break
    heldout = pairs.take(sorted(chosen))
    if len(set(heldout.names)) < 2 or len(set(heldout.captions)) < 2:
        raise UserError(
            f"The {len(chosen)} pairs held out of {len(pairs)} are not two images with two captions, so "
            "right and wrong images can't be compared: add pairs, or raise --dataset.heldout-pairs."
        )
    out = set(chosen)
    return pairs.take([i for i in range(len(pairs)) if i not in out]), heldout
