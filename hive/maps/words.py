"""The words of a caption and the text tokens that spell them."""

from collections.abc import Sequence
from dataclasses import dataclass

from hive.data.text import Tokenizer
from hive.errors import UserError

SHOWN = 6  # words of a figure where none are chosen


@dataclass(frozen=True)
class Word:
    """A word of a caption, as it is written there."""

    text: str
    tokens: tuple[int, ...]
    """Positions of its tokens in the text that the model reads; BOS is 0."""


def words_of(tokenizer: Tokenizer, caption: str, max_tokens: int) -> list[Word]:
    """Returns the words of a caption that the model reads, in order; words after `max_tokens` tokens are left out."""
    words = caption.split()
    text = " ".join(words)
    # the word of each character; the space after a word counts to it
    word_at = [number for number, word in enumerate(words) for _ in f"{word} "]
    tokens: list[list[int]] = [[] for _ in words]
    offsets = tokenizer.backend.encode(text + "\n", add_special_tokens=False).offsets
    readable = max_tokens - 1  # the last token is only ever predicted
    for position, (start, end) in enumerate(offsets[: readable - 1], start=1):
        visible = next((place for place in range(start, end) if place < len(text) and text[place] != " "), None)
        if visible is not None:
            tokens[word_at[visible]].append(position)
    return [Word(word, tuple(positions)) for word, positions in zip(words, tokens, strict=True) if positions]


def choose(words: Sequence[Word], chosen: Sequence[str] = ()) -> list[Word]:
    """Returns the chosen words in the order chosen; without a choice the longest `SHOWN` different ones, in order.

    Case and punctuation around a word don't matter; of a repeated word the first is taken. Raises `UserError` for a
    word that the caption lacks, or where `words` is empty.
    """
    first: dict[str, Word] = {}
    for word in words:
        first.setdefault(_normalise(word.text), word)
    if not words:
        raise UserError("The caption has no word that the model reads: give another.")
    if not chosen:
        longest = sorted(first, key=len, reverse=True)[:SHOWN]
        return [word for key, word in first.items() if key in longest]
    missing = [word for word in chosen if _normalise(word) not in first]
    if missing:
        raise UserError(
            f'--words names "{missing[0]}", which the caption lacks or has only after it is cut off: choose from '
            f"{', '.join(word.text for word in first.values())}."
        )
    return [first[_normalise(word)] for word in dict.fromkeys(chosen)]


def _normalise(word: str) -> str:
    return word.casefold().strip(".,;:!?\"'()[]“”‘’") or word
