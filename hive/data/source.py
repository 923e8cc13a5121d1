"""What every kind of source gives: records in order, each with its fields and the name of its image.

A module of `hive/data/sources` opens files of one kind. It knows nothing of captions, conversations or training: those
are read from the fields by whoever needs them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

IMAGE_FIELDS = ("image", "images", "file_name", "filepath", "filename", "file", "image_path", "img", "path")
CAPTION_FIELDS = ("caption", "captions", "text", "title")
CONVERSATION_FIELDS = ("conversations", "messages")
"""The names that a field may have if no flag names it; the first that a record has a value in is read."""


class BadRecord(Exception):  # noqa: N818 - not a fault of the program: the record is skipped, counted and listed
    """A record that can't be used; the message is the reason."""


class OtherRecord(BadRecord):
    """A record with nothing wrong in it that this kind of run has no use for, such as a text without an image.

    It is skipped, counted and listed like a bad one, but does not count against --dataset.max-bad-share.
    """


@dataclass(frozen=True)
class Columns:
    """The fields that flags name; None leaves the choice to the lists above. A dot leads into a field: "meta.text"."""

    image: str | None = None
    caption: str | None = None


class Record(NamedTuple):
    """One record of a source, usable or not."""

    place: str
    """Where it is, for messages and the ledger: "pairs.json record 3 (id 7)", "0.tar:d/a.jpg", "train.parquet:12".
    Independent of the folder that the data set is in."""
    image: str | None
    """The name of its image, or of the first of several; pairs with one name have one image. None: it has no image."""
    fields: Mapping[str, object]
    """What the file says of it: captions, conversations and the rest, unchecked."""
    fault: BadRecord | None = None
    """Why its image can't be used, where that shows without reading it."""


class Reader(Protocol):
    """Random access to encoded images; picklable, and opens nothing before the first call."""

    def __call__(self, row: int) -> bytes:
        """The encoded image of record `row` of the source; OSError where it can't be read."""


class Part(NamedTuple):
    """One source of a mixture."""

    name: str
    """What it is, as the mixture's file says it."""
    weight: float
    """Passes over it in an epoch."""
    size: int
    """How many records, or usable pairs, it has."""


@dataclass(frozen=True, eq=False)
class Source:
    """The records of a source and its images."""

    records: Iterable[Record]
    """All records in order, to be read once; record k is row k of `reader`."""
    count: int
    """The number of records."""
    reader: Reader
    parts: tuple[Part, ...] = ()
    """The sources of a mixture, whose records follow each other; none where it is no mixture."""


def field(fields: Mapping[str, object], name: str) -> object:
    """The value of a field, of which dots in the name lead into inner ones; None where there is none."""
    if name in fields:
        return fields[name]
    outer, dot, inner = name.partition(".")
    value = fields.get(outer)
    return field(value, inner) if dot and isinstance(value, Mapping) else None


def first_field(fields: Mapping[str, object], names: Sequence[str]) -> object:
    """The value of the first of these fields that is not empty (None, "", [] or {}); None where all are."""
    return next((value for name in names if (value := fields.get(name)) not in (None, "", [], {})), None)
