"""Image-caption pairs from any supported source, checked before anything is trained or written."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hive.config import DataConfig
from hive.data.captions import read_captions
from hive.data.open_source import EMBEDDED, columns_of, open_parquet_file, open_source
from hive.data.order import Mix
from hive.data.source import BadRecord, Columns, OtherRecord, Part, Reader, Record, Source
from hive.errors import UserError

EMBEDDED_HELDOUT = ("seen_style", "unseen_style", "unseen_concept")


class Skipped(NamedTuple):
    """A record that was left out when a source was read."""

    place: str
    reason: str
    bad: bool
    """Whether something is wrong with it; otherwise this kind of run has no use for it."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Image-caption pairs: the texts in memory, the images read on demand."""

    captions: Sequence[str]
    """One text a pair, the first of several, never empty."""
    names: Sequence[str]
    """Where each image is: a path, shard:member, or file:row. Independent of the folder that the data set is in."""
    reader: Reader
    rows: np.ndarray = field(repr=False)
    """Row of the source for each pair, int64 [n]; -1 for a conversation without an image."""
    further: Mapping[int, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """The other texts of the pairs that have several, by index."""
    skipped: Sequence[Skipped] = field(default=(), repr=False)
    """Records that were left out when the source was read."""
    label: str = ""
    """What places in the ledger begin with: two sets of a run may have the same names."""
    parts: Sequence[Part] = ()
    """The sources of a mixture with the number of their pairs, which follow each other; none without a mixture."""

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def stream(self) -> int | Mix:
        """What `hive.data.order.indices` makes the endless stream of: the number of pairs, or a mixture of them."""
        if not self.parts:
            return len(self)
        return Mix(tuple(part.size for part in self.parts), tuple(part.weight for part in self.parts))

    @property
    def epoch_pairs(self) -> int:
        """The number of pairs in an epoch."""
        return self.stream.epoch if isinstance(self.stream, Mix) else self.stream

    def has_image(self, index: int) -> bool:
        """Whether pair `index` has an image; only conversations may have none."""
        return bool(self.rows[index] >= 0)

    def read(self, index: int) -> bytes:
        """The encoded image of pair `index`; OSError where it can't be read."""
        return self.reader(int(self.rows[index]))

    def name(self, index: int) -> str:
        """Where the image of pair `index` is, for the ledger."""
        return self.label + self.names[index]

    def texts(self, index: int) -> tuple[str, ...]:
        """All texts of pair `index`, at least one."""
        return (self.captions[index], *self.further.get(index, ()))

    def caption(self, index: int, epoch: int) -> str:
        """The text that an epoch uses of pair `index`: each in turn, and in one epoch not the first of all pairs."""
        texts = self.texts(index)
        return texts[(index + epoch) % len(texts)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all names and texts, in order."""
        digest = hashlib.sha256()
        for name, caption in zip(self.names, self.captions, strict=True):
            for text in (name, caption):
                data = text.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
        if self.further:
            digest.update(json.dumps(sorted(self.further.items())).encode())
        if self.parts:
            digest.update(json.dumps([(part.size, part.weight) for part in self.parts]).encode())
        return digest.hexdigest()

    def labelled(self, label: str) -> "Pairs":
        """These pairs, whose places in the ledger begin with `label`."""
        skipped = [record._replace(place=label + record.place) for record in self.skipped]
        return replace(self, label=label, skipped=skipped)

    def take(self, indices: Sequence[int]) -> "Pairs":
        """The pairs at `indices`, in that order; of a mixture, indices that rise."""
        ends = np.cumsum([part.size for part in self.parts], dtype=np.int64)
        counts = np.bincount(np.searchsorted(ends, indices, side="right"), minlength=len(ends))
        return replace(
            self,
            captions=[self.captions[i] for i in indices],
            names=[self.names[i] for i in indices],
            rows=self.rows[np.asarray(indices, dtype=np.int64)],
            further={place: self.further[i] for place, i in enumerate(indices) if i in self.further},
            parts=[part._replace(size=int(n)) for part, n in zip(self.parts, counts, strict=False)],
        )


def open_pairs(data: str, image_root: Path | None, options: DataConfig, *, download: bool = True) -> Pairs:
    """The usable pairs of what --data and --image-root name; see `open_source`. No image is decoded.

    Raises `UserError` for what is no source, or has no usable record.
    """
    source = open_source(data, image_root, options, download=download)
    return collect(source, partial(read_captions, columns=columns_of(options)), f"--data {data}")


def open_embedded(split: str) -> Pairs:
    """The pairs of a split of the embedded data: "train", or one of `EMBEDDED_HELDOUT`."""
    columns = Columns()
    source = open_parquet_file(EMBEDDED / f"{split}.parquet", columns)
    return collect(source, partial(read_captions, columns=columns), "The embedded data")


def collect(source: Source, read_texts: Callable[[Record], tuple[str, ...]], what: str) -> Pairs:
    """The usable records of a source as pairs, with those that are skipped and the reasons.

    `read_texts` returns the texts of a record, of which only conversations may do without an image; it raises
    `BadRecord` or `OtherRecord`. `what` is the data, for messages. Raises `UserError` where no record is usable.
    """
    captions: list[str] = []
    names: list[str] = []
    rows: list[int] = []
    further: dict[int, tuple[str, ...]] = {}
    skipped: list[Skipped] = []
    used: list[int] = []  # rows of the source
    for row, record in enumerate(source.records):
        try:
            if record.fault is not None:
                raise record.fault
            first, *others = read_texts(record)
        except BadRecord as reason:
            skipped.append(Skipped(record.place, str(reason), not isinstance(reason, OtherRecord)))
            continue
        if others:
            further[len(captions)] = tuple(others)
        used.append(row)
        captions.append(first)
        names.append(record.image if record.image is not None else f"record {row}")
        rows.append(row if record.image is not None else -1)
    if not captions:
        raise UserError(_no_usable_record(skipped, what))
    usable, end, parts = np.array(used), 0, []
    for part in source.parts:
        start, end = end, end + part.size
        parts.append(part._replace(size=int(((usable >= start) & (usable < end)).sum())))
        if not parts[-1].size:
            raise UserError(f"{what} has no usable record in {part.name}: mend that source, or leave it out.")
    return Pairs(captions, names, source.reader, np.array(rows, dtype=np.int64), further, skipped, parts=parts)


def _no_usable_record(skipped: Sequence[Skipped], what: str) -> str:
    if not skipped:
        return f"{what} holds no records: give data with images and texts."
    first = next((record for record in skipped if record.bad), skipped[0])
    alike = sum(record.reason == first.reason for record in skipped)
    others = "all for this reason" if alike == len(skipped) else f"{alike} of them for this reason"
    return (
        f"None of the {len(skipped)} records of {what} can be used, {others}: {first.reason}, as in {first.place}; "
        "mend the records, or give other data."
    )


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
