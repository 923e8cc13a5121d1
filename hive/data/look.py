"""Looks at the texts and images of pairs without training on them: lengths, headers, and what is wrong."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from hive.config import DataConfig
from hive.data.images import BadImage, Header, ImageSpec, load, read_header
from hive.data.loader import read_image
from hive.data.pairs import Pairs
from hive.data.text import UNCUT, BadText, Encoder


class TextFacts(NamedTuple):
    """What is known of one text."""

    tokens: int
    """Before it is cut."""
    words: int


class ImageFacts(NamedTuple):
    """What is known of one image without decoding it."""

    pair: int
    """Index of the first pair that it belongs to."""
    header: Header
    digest: bytes
    """Of its bytes."""


class Fault(NamedTuple):
    """Why the text or the image of a pair can't be used."""

    pair: int
    """Its index; the first one's where pairs share an image."""
    reason: str
    of_image: bool
    """Whether it holds for every pair with this image."""


@dataclass(frozen=True)
class Facts:
    """What was found out about some pairs."""

    texts: tuple[TextFacts, ...] = ()
    images: tuple[ImageFacts, ...] = ()
    faults: tuple[Fault, ...] = ()


def look_at_text(pairs: Pairs, index: int, encoder: Encoder, max_tokens: int) -> list[TextFacts]:
    """The length of each text of a pair. Raises `BadText` where one can't be trained on."""
    lengths = []
    for text in pairs.texts(index):
        tokens = len(encoder.encode(text, UNCUT))
        if tokens > max_tokens:
            encoder.encode(text, max_tokens)  # a conversation may lose all its answers
        lengths.append(TextFacts(tokens, len(encoder.plain(text).split())))
    return lengths


def look_at_image(
    pairs: Pairs, index: int, max_megapixels: float, spec: ImageSpec | None = None
) -> tuple[Header, bytes]:
    """(header, digest) of a pair's image, which is decoded for `spec` if one is given. Raises `BadImage`."""
    data = read_image(pairs, index)
    header = read_header(data, max_megapixels)
    if spec is not None:
        load(data, spec, max_megapixels)
    return header, hashlib.blake2b(data, digest_size=16).digest()


@dataclass(frozen=True)
class Look(Dataset):
    """Item k: the facts of pairs k * chunk, ..., for worker processes; an image that pairs share is looked at once."""

    pairs: Pairs
    encoder: Encoder
    options: DataConfig
    decode: ImageSpec | None
    """Decodes images for this tower; None reads headers only."""
    is_first: np.ndarray
    """Whether no earlier pair has the image of this one, bool [n]."""
    chunk: int

    def __len__(self) -> int:
        return -(-len(self.pairs) // self.chunk)

    def __getitem__(self, item: int) -> Facts:
        texts: list[TextFacts] = []
        images: list[ImageFacts] = []
        faults: list[Fault] = []
        for index in range(item * self.chunk, min((item + 1) * self.chunk, len(self.pairs))):
            try:
                texts += look_at_text(self.pairs, index, self.encoder, self.options.max_text_tokens)
            except BadText as error:
                faults.append(Fault(index, str(error), False))
            if not self.is_first[index]:
                continue
            try:
                header, digest = look_at_image(self.pairs, index, self.options.max_megapixels, self.decode)
            except BadImage as error:
                faults.append(Fault(index, str(error), True))
            else:
                images.append(ImageFacts(index, header, digest))
        return Facts(tuple(texts), tuple(images), tuple(faults))


def find_first_pairs(pairs: Pairs) -> np.ndarray:
    """Whether each pair is the first one with its image, bool [n]; False where it has none."""
    first: dict[str, int] = {}
    for index, name in enumerate(pairs.names):
        if pairs.has_image(index):
            first.setdefault(name, index)
    is_first = np.zeros(len(pairs), dtype=bool)
    is_first[list(first.values())] = True
    return is_first


def join(facts: Iterable[Facts]) -> Facts:
    """All of them as one."""
    every = list(facts)
    return Facts(
        tuple(text for part in every for text in part.texts),
        tuple(image for part in every for image in part.images),
        tuple(fault for part in every for fault in part.faults),
    )
