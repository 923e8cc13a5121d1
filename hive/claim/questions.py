"""Templated questions about drawings, made from the set's metadata: the same for every tower and seed."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hive.data.pairs import hash_order
from hive.data.templates import GROUP, NAME, SUBGROUP, TONE, yes_or_no
from hive.data.text import Tokenizer

PLACES = ("name", "group", "subgroup", "tone", "yes/no", "yes/no")
"""The kind of each question about a drawing; of the last two, one has the right name and one a wrong one."""
CONSTANT = (NAME, GROUP, SUBGROUP, TONE)
PASSES = 10  # over the training drawings, until their wrong names repeat
NOT_ASKED = -1
MAX_TOKENS = 64  # of a question


@dataclass(frozen=True, eq=False)
class Questions:
    """The questions of all splits: T different ones, of which each drawing gets P, one in each of P places.

    A question is not asked where the drawing has no metadata of its kind, or where no training question has its answer,
    as with the names of unseen concepts.
    """

    kinds: tuple[str, ...]
    """The kind of question in each place, without kinds that no training drawing has."""
    answers: dict[str, list[str]]
    """By kind: the answers to choose from, which are those of the training questions."""
    tokens: np.ndarray
    """Token ids of every question, int64 [T, L]; -1 after a question's end."""
    asked: dict[str, np.ndarray]
    """By split: the question in each place, int64 [passes, n, P]; one pass except for "train"."""
    right: dict[str, np.ndarray]
    """By split: the index of its answer in `answers`, int64 [n, P], or `NOT_ASKED`."""
    trained: np.ndarray
    """Whether a training drawing is trained on, bool [n]; the others are of the validation concepts."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all fields."""
        digest = hashlib.sha256(repr((self.kinds, self.answers)).encode("utf-8", "surrogatepass"))
        for array in (self.tokens, *self.asked.values(), *self.right.values(), self.trained):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def heldout(self) -> list[str]:
        """The splits that are not trained on."""
        return [split for split in self.asked if split != "train"]

    def by_kind(self, counts: np.ndarray) -> dict[str, int]:
        """Returns counts by kind, summed from those of each place, [P]."""
        return {kind: int(counts[_places_of(self.kinds, kind)].sum()) for kind in self.answers}

    def asked_of(self, split: str, drawings: Any = slice(None)) -> dict[str, int]:
        """Returns how many questions of each kind are asked about a split's drawings, or about those at `drawings`."""
        return self.by_kind((self.right[split][drawings] != NOT_ASKED).sum(0))

    def most_common(self, split: str) -> dict[str, float]:
        """Returns by kind the share of the split's questions that training's most common answer is right for."""
        constant = np.array([self._most_common_answer(kind) for kind in self.kinds])
        hits, asked = self.by_kind((self.right[split] == constant).sum(0)), self.asked_of(split)
        return {kind: hits[kind] / count for kind, count in asked.items() if count}

    def _most_common_answer(self, kind: str) -> int:
        right = self.right["train"][self.trained][:, _places_of(self.kinds, kind)]
        return Counter(right[right != NOT_ASKED].tolist()).most_common(1)[0][0]


def make_questions(
    columns: Mapping[str, Mapping[str, np.ndarray]], in_validation: np.ndarray, tokenizer: Tokenizer
) -> Questions:
    """Returns the questions about each drawing.

    `columns`: by split and name ("caption", "group", "subgroup", "tone"), one text a drawing. `in_validation`: the
    training drawings that are not trained on, bool [n].
    """
    numbers: dict[str, int] = {}
    asked, right_texts = {}, {}
    for split, metadata in columns.items():
        side = in_validation if split == "train" else np.zeros(len(metadata["caption"]), bool)
        texts, right_texts[split] = _write_questions(metadata, side, PASSES if split == "train" else 1)
        asked[split] = np.array([[[numbers.setdefault(t, len(numbers)) for t in row] for row in p] for p in texts])
    trained = right_texts["train"][~in_validation]
    answers = {
        kind: sorted(set(trained[:, _places_of(PLACES, kind)].flatten().tolist()) - {""})
        for kind in dict.fromkeys(PLACES)
    }
    places = [place for place, kind in enumerate(PLACES) if answers[kind]]
    return Questions(
        kinds=tuple(PLACES[place] for place in places),
        answers={kind: known for kind, known in answers.items() if known},
        tokens=_pad([tokenizer.encode(text, MAX_TOKENS) for text in numbers]),
        asked={split: numbered[:, :, places] for split, numbered in asked.items()},
        right={
            split: np.stack([_find_answers(answers[PLACES[place]], right[:, place]) for place in places], 1)
            for split, right in right_texts.items()
        },
        trained=~in_validation,
    )


def _write_questions(columns: Mapping[str, np.ndarray], side: np.ndarray, passes: int) -> tuple[list[Any], np.ndarray]:
    """Returns the questions by pass, drawing and place of `PLACES`; and their answers, str [n, P], "" where not asked.

    A wrong name is that of a drawing on the same `side`, training or validation, bool [n].
    """
    captions = columns["caption"].tolist()
    groups = [f"{part} {group}" for part, group in zip(side, columns["group"], strict=True)]
    wrong = [wrong_names(captions, groups, salt) for salt in range(passes)]
    texts = [
        [(*CONSTANT, yes_or_no(name), yes_or_no(other)) for name, other in zip(captions, others, strict=True)]
        for others in wrong
    ]
    both = [("yes", "no") if other else ("", "") for other in wrong[0]]
    known = np.stack([columns[name] for name in ("caption", "group", "subgroup", "tone")], 1)
    return texts, np.concatenate([known, np.array(both)], 1)


def wrong_names(captions: Sequence[str], groups: Sequence[str], salt: int) -> list[str]:
    """Returns another caption of the same group for each drawing, "" where the group has none.

    Within a group the captions are permuted, so each is a wrong name as often as it is a right one: neither the group
    nor the name alone tells whether the answer is yes or no.
    """
    different = sorted(set(captions))
    rank = {different[place]: number for number, place in enumerate(hash_order(different, salt))}
    names = [""] * len(captions)
    for group in sorted(set(groups)):
        members = sorted((i for i, other in enumerate(groups) if other == group), key=lambda i: rank[captions[i]])
        largest = max(Counter(captions[i] for i in members).values())
        if 2 * largest <= len(members):  # equal captions are adjacent, so `largest` further is another one
            for place, i in enumerate(members):
                names[i] = captions[members[(place + largest) % len(members)]]
    return names


def _places_of(kinds: Sequence[str], kind: str) -> list[int]:
    return [place for place, other in enumerate(kinds) if other == kind]


def _find_answers(known: Sequence[str], texts: np.ndarray) -> np.ndarray:
    """Returns the index of each text in the sorted `known`, or `NOT_ASKED`."""
    place = {text: number for number, text in enumerate(known)}
    return np.array([place.get(text, NOT_ASKED) for text in texts.tolist()], dtype=np.int64)


def _pad(ids: Sequence[Sequence[int]]) -> np.ndarray:
    padded = np.full((len(ids), max(map(len, ids))), -1, dtype=np.int64)
    for row, tokens in zip(padded, ids, strict=True):
        row[: len(tokens)] = tokens
    return padded
