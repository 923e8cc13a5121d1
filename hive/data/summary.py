"""What a run reads, in a few lines: lengths of texts, sizes of images, steps of an epoch, and what to mind."""

import copy
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hive.config import DataConfig
from hive.data.images import BadImage, Header, ImageSpec
from hive.data.ledger import LEDGER
from hive.data.look import Facts, Fault, ImageFacts, TextFacts, look_at_image, look_at_text
from hive.data.order import Mix, epoch_order, steps
from hive.data.pairs import Pairs
from hive.data.source import Part
from hive.data.text import BadText, Encoder

TEXTS, IMAGES = 1000, 64  # at most so many are looked at before a run
FEWEST = 16  # so many are looked at however slow that is
SECONDS = 0.3  # at most so long for texts, and again for images: a disk may be slow, and a row group large
WORTH_A_WARNING = 0.01  # share of texts that are cut
KINDS = 9  # formats that are named
_LABEL = 14  # characters


@dataclass(frozen=True)
class Reading:
    """How a run reads its pairs."""

    encoder: Encoder
    spec: ImageSpec
    options: DataConfig
    unit: str
    """What a batch consists of: "pairs" or "conversations"."""
    texts: str
    """What a text is called: "captions" or "conversations"."""
    check: str
    """The command that checks such data, such as "python -m hive.data"."""


def sample(pairs: Pairs, reading: Reading, seconds: float = SECONDS) -> Facts:
    """The facts of an even sample of the texts and of the images, as many as `seconds` allow for each of the two."""
    pairs = replace(pairs, reader=copy.copy(pairs.reader))  # what it keeps in memory goes with the copy
    options = reading.options
    texts: list[TextFacts] = []
    images: list[ImageFacts] = []
    faults: list[Fault] = []

    def look_at_texts(index: int) -> None:
        try:
            texts.extend(look_at_text(pairs, index, reading.encoder, options.max_text_tokens))
        except BadText as error:
            faults.append(Fault(index, str(error), False))

    def look_at_images(index: int) -> None:
        try:
            images.append(ImageFacts(index, *look_at_image(pairs, index, options.max_megapixels)))
        except BadImage as error:
            faults.append(Fault(index, str(error), True))

    with_image = np.flatnonzero(pairs.rows >= 0)
    _visit(np.arange(len(pairs)), TEXTS, look_at_texts, seconds)
    _visit(with_image, IMAGES, look_at_images, seconds)
    return Facts(tuple(texts), tuple(images), tuple(faults))


def _visit(indices: np.ndarray, most: int, look: Callable[[int], None], seconds: float) -> None:
    """Looks at up to `most` of the indices, evenly spaced, but in a mixed order, so that a part is even too."""
    number = min(most, len(indices))
    spaced = indices[np.arange(number) * len(indices) // max(1, number)]
    end = time.monotonic() + seconds
    for looked, position in enumerate(epoch_order(number, 0, 0), start=1):
        look(int(spaced[position]))
        if looked >= FEWEST and time.monotonic() > end:
            break


def describe(facts: Facts, reading: Reading, pairs: Pairs | None = None) -> list[str]:
    """Lines about the texts and one about the images; those of a sample of `pairs` say how many it has."""
    bad_images = sum(fault.of_image for fault in facts.faults)
    looked = (len(facts.texts) + len(facts.faults) - bad_images, len(facts.images) + bad_images)
    there = looked if pairs is None else (len(pairs), int((pairs.rows >= 0).sum()))
    texts, images = (f" ({n:,} looked at)" if n < most else "" for n, most in zip(looked, there, strict=True))
    lines = _text_lines(facts, reading, texts) if facts.texts else []
    return [*lines, _image_line(facts, reading.spec) + images] if facts.images else lines


def warn(facts: Facts, reading: Reading) -> list[str]:
    """A sentence for what costs much without being wrong: texts that are cut, images that are enlarged."""
    return [*_warn_of_cut(facts, reading), *_warn_of_small(facts, reading)]


def warn_of_losses(pairs: Pairs, facts: Facts, reading: Reading) -> list[str]:
    """A sentence about the records that were left out, and one about what a sample shows to be unusable."""
    sentences, how = [], f"{reading.check} with the same flags"
    if pairs.skipped:
        bad = [record for record in pairs.skipped if record.bad]
        place, reason, _ = (bad or pairs.skipped)[0]
        sentences.append(
            f"warning: {count(len(pairs.skipped), 'record')} left out, {len(bad):,} of them bad, such as "
            f"{printable(place)} ({printable(reason)}): {LEDGER} in the run folder has all, and {how} sorts them by "
            "kind."
        )
    if facts.faults:
        first = facts.faults[0]
        sentences.append(
            f"warning: {count(len(facts.faults), 'sample')} of those looked at can't be used, such as "
            f"{printable(pairs.name(first.pair))} ({printable(first.reason)}): {how} lists all."
        )
    return sentences


def labelled(label: str, text: str) -> str:
    """A line of the summary."""
    return f"{label:<{_LABEL}}{text}"


def describe_epoch(
    unit: str, epoch_pairs: int, batch_sizes: Mapping[int, int], heldout: Mapping[str, Pairs], training: Pairs
) -> str:
    """The line about training and held-out pairs and an epoch's steps by stage; for a mixture also one a source."""
    stages_of: dict[int, list[int]] = {}
    for stage, batch in batch_sizes.items():
        stages_of.setdefault(batch, []).append(stage)
    lengths = [
        f"{count(steps(1, epoch_pairs, batch), 'step')} of {batch:,} {unit}"
        + (f" in stage {' and '.join(map(str, stages))}" if len(stages_of) > 1 else "")
        for batch, stages in stages_of.items()
    ]
    held = [f"{len(pairs):,} {split.replace('_', ' ')}" for split, pairs in heldout.items()]
    lines = [labelled("epoch", f"{'; '.join(lengths)}; {len(training):,} to train on, {', '.join(held)}")]
    if isinstance(training.stream, Mix):
        shares = _mixture_lines(training.parts, training.stream.taken, unit)
        lines += [labelled("" if number else "mixture", share) for number, share in enumerate(shares)]
    return "\n".join(lines)


def _mixture_lines(parts: Sequence[Part], taken: Sequence[int], unit: str) -> list[str]:
    """A line for each source of a mixture: its training pairs, its weight and its share of an epoch."""
    width = max(len(part.name) for part in parts)
    return [
        f"{printable(part.name):<{width}}  {part.size:>9,} {unit} x {part.weight:g} = {number:,} an epoch "
        f"({percent(number, sum(taken))})"
        for part, number in zip(parts, taken, strict=True)
    ]


def count(number: int, singular: str) -> str:
    """A number with its noun: "1 step", "2 steps"."""
    return f"{number:,} {singular}" + ("" if number == 1 else "s")


def printable(text: str) -> str:
    """A text from a file, with escapes for characters that a terminal would obey or could not show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def percent(part: int, whole: int) -> str:
    """A share in percent with about two digits; what is less than all is never rounded to all, nor some to none."""
    share = 100 * part / max(1, whole)
    if part in (0, whole):
        return f"{share:.0f} %"
    return f"{min(round(share), 99)} %" if share >= 10 else f"{max(share, 0.01):.2g} %"


def _text_lines(facts: Facts, reading: Reading, looked_at: str) -> list[str]:
    tokens = np.array([text.tokens for text in facts.texts])
    words = np.array([text.words for text in facts.texts])
    limit = reading.options.max_text_tokens
    cut = int((tokens > limit).sum())
    middle, most = (int(np.quantile(tokens, share, method="inverted_cdf")) for share in (0.5, 0.95))
    typical = f"median {count(middle, 'token')} ({count(int(np.median(words)), 'word')})"
    longest = f"longest {tokens.max():,} ({count(int(words.max()), 'word')})"
    limits = (
        f"--dataset.max-text-tokens {limit:,} cuts {percent(cut, len(tokens))}, {enough_tokens(facts):,} at most 1 %"
    )
    return [
        labelled(reading.texts, f"{typical}, 95 % at most {most:,}, {longest}{looked_at}"),
        labelled("", limits),
    ]


def _image_line(facts: Facts, spec: ImageSpec) -> str:
    headers = sorted((image.header for image in facts.images), key=lambda header: header.width * header.height)
    smallest, median, largest = (_size(headers[place]) for place in (0, len(headers) // 2, -1))
    sizes = f"all {median}" if smallest == largest else f"smallest {smallest}, median {median}, largest {largest}"
    small = sum(min(header.width, header.height) < spec.size for header in headers)
    kinds = Counter(f"{header.format} {header.mode}" for header in headers)
    named = [f"{number:,} {kind}" for kind, number in kinds.most_common(KINDS)]
    if others := sum(kinds.values()) - sum(number for _, number in kinds.most_common(KINDS)):
        named.append(f"{others:,} of other kinds")
    return labelled(
        "images",
        f"{sizes} pixels, {percent(small, len(headers))} smaller than the tower's {spec.size}x{spec.size}; "
        f"{', '.join(named)}",
    )


def _size(header: Header) -> str:
    return f"{header.width}x{header.height}"


def _warn_of_cut(facts: Facts, reading: Reading) -> list[str]:
    limit = reading.options.max_text_tokens
    tokens = np.array([text.tokens for text in facts.texts])
    cut = int((tokens > limit).sum())
    if cut <= WORTH_A_WARNING * len(tokens):
        return []
    most = int(np.quantile(tokens, 0.95, method="inverted_cdf"))
    return [
        f"warning: {cut:,} of {len(tokens):,} {reading.texts} are cut at --dataset.max-text-tokens {limit:,}; 95 % are "
        f"at most {most:,} tokens long: raise it to {enough_tokens(facts):,}."
    ]


def enough_tokens(facts: Facts) -> int:
    """The least multiple of 8 that cuts at most 1 % of the texts."""
    tokens = [text.tokens for text in facts.texts]
    return 8 * -(-int(np.quantile(tokens, 1 - WORTH_A_WARNING, method="inverted_cdf")) // 8)


def _warn_of_small(facts: Facts, reading: Reading) -> list[str]:
    size = reading.spec.size
    small = sum(2 * min(image.header.width, image.header.height) <= size for image in facts.images)
    if 2 * small <= len(facts.images):
        return []
    return [
        f"warning: {small:,} of {len(facts.images):,} images have a side of at most half the tower's {size} pixels and "
        "are enlarged: give larger images, or a tower of a smaller input."
    ]
