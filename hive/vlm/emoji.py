"""Conversations on the embedded emoji, made from its metadata by templates: name, group, and yes or no."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hive.data.open_source import EMBEDDED
from hive.data.pairs import Pairs, open_embedded
from hive.data.shared_texts import SharedTexts
from hive.data.templates import GROUP, NAME, SHORT_ANSWER, yes_or_no
from hive.data.turns import IMAGE, Turn
from hive.vlm.conversations import dumps


def open_emoji(split: str) -> Pairs:
    """A split's conversations: one a drawing, and in the training split one without an image for every fourth drawing.

    One about a drawing has three questions, in a random order that depends on the drawing's index alone. Yes and no are
    equally frequent, and half of the first questions end with the benchmarks' instruction for short answers.
    """
    pairs = open_embedded(split)
    table: Any = pq.read_table(EMBEDDED / f"{split}.parquet", columns=["caption", "group"])
    captions, groups = (table[name].to_pylist() for name in ("caption", "group"))
    texts = [_about_image(index, captions, groups) for index in range(len(captions))]
    imageless = (
        [_without_image(index, captions, groups) for index in range(0, len(captions), 4)] if split == "train" else []
    )
    return replace(
        pairs,
        captions=SharedTexts([dumps(turns) for turns in (*texts, *imageless)]),
        names=[*pairs.names, *(f"{split} text {number}" for number in range(len(imageless)))],
        rows=np.concatenate([pairs.rows, np.full(len(imageless), -1)]),
    )


def words(group: str) -> str:
    """A group's name as a person writes it: "smileys-emotion" is "smileys and emotion"."""
    return group.replace("-", " and ")


def _about_image(index: int, captions: Sequence[str], groups: Sequence[str]) -> list[Turn]:
    generator = random.Random(index)
    right = generator.random() < 0.5
    named = captions[index] if right else captions[_pick_other(generator, index, captions)]
    asked = [
        (NAME, captions[index]),
        (GROUP, words(groups[index])),
        (yes_or_no(named), "yes" if right else "no"),
    ]
    generator.shuffle(asked)
    turns = [turn for question, answer in asked for turn in (("user", question), ("assistant", answer))]
    instruction = SHORT_ANSWER if generator.random() < 0.5 else ""
    return [("user", f"{IMAGE}\n{turns[0][1]}{instruction}"), *turns[1:]]


def _without_image(index: int, captions: Sequence[str], groups: Sequence[str]) -> list[Turn]:
    return [("user", f"Which group is {captions[index]} in?"), ("assistant", words(groups[index]))]


def _pick_other(generator: random.Random, index: int, captions: Sequence[str]) -> int:
    """A random index with another caption than `index` has."""
    while captions[other := generator.randrange(len(captions))] == captions[index]:
        pass
    return other
