"""What a run says of its data at its start: exact where it looks at all, and said so where it does not."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from hive.config import DataConfig
from hive.data.images import ImageSpec
from hive.data.pairs import Pairs, Skipped, open_embedded
from hive.data.source import Part
from hive.data.summary import (
    FEWEST,
    IMAGES,
    TEXTS,
    Reading,
    describe,
    describe_epoch,
    enough_tokens,
    percent,
    sample,
    warn,
    warn_of_losses,
)
from hive.data.text import Tokenizer, load_tokenizer
from hive.recipes import load_recipe
from tests.support.pairs_on_the_spot import encoded


@pytest.fixture
def reading(tokenizer: Tokenizer, spec: ImageSpec) -> Reading:
    return Reading(tokenizer, spec, DataConfig(), "pairs", "captions", "python -m hive.data")


class Sized:
    """Images of 20 x 16 pixels, the first one wider; counts how often this object is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self, row: int) -> bytes:
        self.reads += 1
        return b"" if row == 30 else encoded(row % 18, size=(32, 16) if row == 0 else (20, 16))


def pairs_of(captions: Sequence[str], reader: Sized | None = None) -> Pairs:
    number = len(captions)
    return Pairs(captions, [f"{k}.png" for k in range(number)], reader or Sized(), np.arange(number))


def letters(number: int) -> str:
    """A caption of exactly this many tokens with BOS and newline: digits are no merges of the tokenizer's training."""
    return "7" * (number - 2)


def test_lengths_and_sizes_are_exact_for_a_small_set(reading: Reading) -> None:
    captions = [letters(length) for length in (*range(10, 29), 100)]
    assert [len(reading.encoder.encode(caption, 1000)) for caption in captions] == [*range(10, 29), 100]
    pairs = pairs_of(captions)
    assert describe(sample(pairs, reading), reading, pairs) == [
        "captions      median 19 tokens (1 word), 95 % at most 28, longest 100 (1 word)",
        "              --dataset.max-text-tokens 77 cuts 5 %, 104 at most 1 %",
        "images        smallest 20x16, median 20x16, largest 32x16 pixels, 0 % smaller than the tower's 16x16; "
        "20 PNG RGB",
    ]


def test_a_sample_is_even_and_says_so(reading: Reading) -> None:
    captions = [letters(12)] * 2000 + [letters(14)] * 2000
    pairs = pairs_of(captions)
    facts = sample(pairs, reading)
    assert len(facts.texts) == TEXTS
    assert sum(text.tokens == 14 for text in facts.texts) == TEXTS / 2
    looked = sorted(image.pair for image in facts.images)
    assert looked == [k * 4000 // IMAGES for k in range(IMAGES)]
    lines = describe(facts, reading, pairs)
    assert lines[0].endswith("(1,000 looked at)")
    assert lines[2].endswith("(64 looked at)")


def test_a_slow_source_is_not_waited_for(reading: Reading) -> None:
    """But for a few, and the lines say that they are few."""
    pairs = pairs_of([letters(12)] * 100)
    facts = sample(pairs, reading, seconds=0)
    assert (len(facts.texts), len(facts.images)) == (FEWEST, FEWEST)
    lines = describe(replace(facts, texts=facts.texts * 7), reading, pairs)
    assert [line.endswith("(16 looked at)") for line in lines] == [False, False, True]


def test_the_runs_own_reader_is_left_as_it_is(reading: Reading) -> None:
    reader = Sized()
    sample(pairs_of([letters(12)] * 9, reader), reading)
    assert reader.reads == 0  # what it would have read stays in memory during the run


def test_captions_that_are_cut_are_told(reading: Reading) -> None:
    short = replace(reading, options=DataConfig(max_text_tokens=32))
    for cut, told in ((0, False), (1, False), (2, True), (100, True)):
        facts = sample(pairs_of([letters(61)] * cut + [letters(20)] * (100 - cut)), short)
        sentences = warn(facts, short)
        assert len(sentences) == told, cut
    assert sentences == [
        "warning: 100 of 100 captions are cut at --dataset.max-text-tokens 32; 95 % are at most 61 tokens long: raise "
        "it to 64."
    ]
    raised = replace(reading, options=DataConfig(max_text_tokens=enough_tokens(facts)))
    assert warn(facts, raised) == []


def test_images_that_are_enlarged_are_told(reading: Reading) -> None:
    facts = sample(pairs_of([letters(12)] * 10), reading)
    for size, told in ((16, False), (31, False), (32, True), (336, True)):
        large = replace(reading, spec=replace(reading.spec, size=size))
        assert [f"half the tower's {size} pixels" in sentence for sentence in warn(facts, large)] == [True] * told


def test_losses_are_told(reading: Reading) -> None:
    skipped = [Skipped("pairs.json record 4", "has no image", False), Skipped("pairs.json record 7", "is gone", True)]
    pairs = replace(pairs_of([letters(12)] * 40), skipped=skipped)
    first, second = warn_of_losses(pairs, sample(pairs, reading), reading)
    assert "2 records left out, 1 of them bad, such as pairs.json record 7 (is gone): bad_samples.jsonl" in first
    assert (
        "1 sample of those looked at can't be used, such as 30.png (the file is empty): python -m hive.data" in second
    )
    fine = pairs_of([letters(12)] * 5)
    assert warn_of_losses(fine, sample(fine, reading), reading) == []


def test_steps_of_an_epoch(reading: Reading) -> None:
    held, training = {"held_out": pairs_of([letters(12)] * 512)}, pairs_of([letters(12)] * 40)
    assert describe_epoch("pairs", 595_375, {1: 256, 2: 256, 3: 1024}, held, training) == (
        "epoch         2,326 steps of 256 pairs in stage 1 and 2; 581 steps of 1,024 pairs in stage 3; "
        "40 to train on, 512 held out"
    )


def test_the_sources_of_a_mixture(reading: Reading) -> None:
    parts = (Part("a.json", 0.5, 30), Part("shards", 3.0, 10))
    mixed = replace(pairs_of([letters(12)] * 40), parts=parts)
    lines = describe_epoch("pairs", mixed.epoch_pairs, {1: 9}, {"held_out": pairs_of([letters(12)] * 2)}, mixed)
    assert [" ".join(line.split()) for line in lines.split("\n")] == [
        "epoch 5 steps of 9 pairs; 40 to train on, 2 held out",
        "mixture a.json 30 pairs x 0.5 = 15 an epoch (33 %)",
        "shards 10 pairs x 3 = 30 an epoch (67 %)",
    ]


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (0, 7, "0 %"),
        (7, 7, "100 %"),
        (1, 100_000, "0.01 %"),
        (99_999, 100_000, "99 %"),
        (1, 40, "2.5 %"),
        (0, 0, "0 %"),
    ],
)
def test_shares_are_never_rounded_to_none_or_all(part: int, whole: int, expected: str) -> None:
    assert percent(part, whole) == expected


def test_the_demo_cuts_no_embedded_caption() -> None:
    tokenizer, limit = load_tokenizer(), load_recipe("demo").dataset.max_text_tokens
    assert max(len(tokenizer.encode(caption, 1000)) for caption in open_embedded("train").captions) <= limit
