"""What repeats itself in image-text pairs: pairs, images under several names, texts of several images, openings."""

from collections import Counter
from collections.abc import Iterator, Sequence

from hive.data.look import ImageFacts
from hive.data.pairs import Pairs
from hive.data.summary import Reading, count, percent, printable

_OPENING = 3  # words
_COMMON = 0.1  # share of the texts from which on an opening is named
_FEW = 20  # texts: of fewer, no opening is common
_SHOWN = 60  # characters of a text


def describe_repeats(pairs: Pairs, images: Sequence[ImageFacts], looked: int, reading: Reading) -> list[str]:
    """A sentence for each kind of repetition among the first `looked` pairs, for images by their bytes."""
    digest_of = {pairs.names[image.pair]: image.digest for image in images}
    known: list[tuple[bytes, str]] = []
    for index in range(looked):
        digest = digest_of.get(pairs.names[index]) if pairs.has_image(index) else None
        if digest is not None:
            known += [(digest, reading.encoder.plain(text)) for text in pairs.texts(index)]
    texts = [text for _, text in known]
    return [
        *_repeated_pairs(known, reading),
        *_renamed_images(digest_of),
        *_shared_texts(known, reading),
        *(_openings(texts) if reading.texts == "captions" else ()),  # questions repeat in every set of conversations
        *_texts_without_letters(texts, reading),
    ]


def _repeated_pairs(known: Sequence[tuple[bytes, str]], reading: Reading) -> Iterator[str]:
    if extra := len(known) - len(set(known)):
        yield f"{extra:,} of {len(known):,} {reading.texts} are there again with the same image"


def _renamed_images(digest_of: dict[str, bytes]) -> Iterator[str]:
    names_of: dict[bytes, list[str]] = {}
    for name, digest in digest_of.items():
        names_of.setdefault(digest, []).append(name)
    groups = [names for names in names_of.values() if len(names) > 1]
    if groups:
        extra = sum(len(names) - 1 for names in groups)
        first, second, *others = max(groups, key=len)
        yield (
            f"{extra:,} of {len(digest_of):,} images repeat the bytes of another: {printable(first)} is there under "
            f"{2 + len(others):,} names, {printable(second)} among them"
        )


def _shared_texts(known: Sequence[tuple[bytes, str]], reading: Reading) -> Iterator[str]:
    images_of = Counter(text for _, text in set(known))
    shared = {text: number for text, number in images_of.items() if number > 1}
    if shared:
        text, most = max(shared.items(), key=lambda item: item[1])
        stand = f"{count(len(shared), reading.texts.removesuffix('s'))} {'stands' if len(shared) == 1 else 'stand'}"
        images = f"{sum(shared.values()):,} images in all"
        yield f'{stand} for more than one image ({images}): "{_short(text)}" for {most:,}'


def _openings(texts: Sequence[str]) -> Iterator[str]:
    openings = Counter(" ".join(words[:_OPENING]) for text in texts if len(words := text.lower().split()) > _OPENING)
    for opening, number in openings.most_common(3):
        if len(texts) >= _FEW and number >= _COMMON * len(texts):
            share = percent(number, len(texts))
            yield f'{share} of the captions begin with "{printable(opening)}", as a template gives'


def _texts_without_letters(texts: Sequence[str], reading: Reading) -> Iterator[str]:
    without = [text for text in texts if not any(character.isalpha() for character in text)]
    if without:
        yield f'{len(without):,} of {len(texts):,} {reading.texts} have no letter, such as "{_short(without[0])}"'


def _short(text: str) -> str:
    return printable(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")
