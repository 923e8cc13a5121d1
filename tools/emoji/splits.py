"""Drops repeated drawings, and divides the rest into training and held-out splits."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from emoji.catalogue import Emoji

SPLITS = ("train", "seen_style", "unseen_style", "unseen_concept")
UNSEEN_STYLE = "fluent"
"""The vendor that training never sees."""
UNSEEN_CONCEPTS = 0.12
"""Share of concept families that training never sees."""
SEEN_STYLE = 0.10
"""Share of the concepts drawn in two training styles or more that have one of those drawings held out."""

TONE_MODIFIERS = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
INVISIBLE = {"200D", "FE0F"}
"""Zero-width joiner and emoji variation selector."""
GENDER_AND_DIRECTION = {"2640", "2642", "27A1"}
"""Female and male sign, and the arrow that turns a walking person to face right; each only after a joiner."""

ADULT, CHILD = "1F9D1", "1F9D2"
SAME_BUT_FOR_GENDER = {
    "1F468": ADULT,  # man
    "1F469": ADULT,  # woman
    "1F466": CHILD,  # boy
    "1F467": CHILD,  # girl
    "1F474": "1F9D3",  # old man: older person
    "1F475": "1F9D3",  # old woman
    "1F934": "1FAC5",  # prince: person with crown
    "1F478": "1FAC5",  # princess
    "1F385": f"{ADULT}-1F384",  # Santa Claus: Mx Claus
    "1F936": f"{ADULT}-1F384",  # Mrs. Claus
    "1F57A": "1F483",  # man dancing: woman dancing
    "1F930": "1FAC4",  # pregnant woman: pregnant person
    "1FAC3": "1FAC4",  # pregnant man
    "1F931": f"{ADULT}-1F37C",  # breast-feeding: person feeding baby
    "1F46B": f"{ADULT}-1F91D-{ADULT}",  # woman and man holding hands: people holding hands
    "1F46C": f"{ADULT}-1F91D-{ADULT}",  # men holding hands
    "1F46D": f"{ADULT}-1F91D-{ADULT}",  # women holding hands
    "1F491": f"{ADULT}-2764-{ADULT}",  # couple with heart
    "1F48F": f"{ADULT}-2764-1F48B-{ADULT}",  # kiss
}
FAMILY_OF_PEOPLE = "1F46A"
"""The emoji "family", which stands for every family of named members."""


@dataclass(frozen=True)
class Drawing:
    """One vendor's picture of one emoji."""

    emoji: Emoji
    vendor: str
    image: bytes
    """Encoded picture, lossless: equal bytes are equal pixels."""
    is_alias: bool = False
    """The vendor made the picture for another name and lists this one as an alias, not always rightly."""


def family(hexcode: str) -> str:
    """Returns the name that an emoji shares with all that differ from it in gender, skin tone or direction only.

    "Woman running" and "man running: dark skin tone" are of the family of "person running" (1F3C3).
    """
    first, *rest = hexcode.upper().split("-")
    points = [first, *(p for p in rest if p not in TONE_MODIFIERS | INVISIBLE | GENDER_AND_DIRECTION)]
    points = [SAME_BUT_FOR_GENDER.get(point, point) for point in points]
    if len(points) > 1 and set(points) <= {ADULT, CHILD}:
        return FAMILY_OF_PEOPLE
    return "-".join(points)


def chance(purpose: str, key: str) -> float:
    """Returns a number in [0, 1) that looks random and depends on the two strings alone."""
    return int(hashlib.sha1(f"{purpose}:{key}".encode()).hexdigest()[:13], 16) / 16**13


def without_repeats(drawings: list[Drawing]) -> tuple[list[Drawing], int, int]:
    """Keeps one of the drawings that share their pixels: the first that is no alias, else the first.

    Returns the drawings kept, in order; how many were dropped that had the caption of the one kept; and how many that
    had another caption, which would have contradicted it.
    """
    chosen: dict[bytes, Drawing] = {}
    for drawing in sorted(drawings, key=lambda drawing: drawing.is_alias):
        chosen.setdefault(drawing.image, drawing)
    dropped = [drawing for drawing in drawings if chosen[drawing.image] is not drawing]
    contradicted = sum(chosen[drawing.image].emoji.caption != drawing.emoji.caption for drawing in dropped)
    kept = [drawing for drawing in drawings if chosen[drawing.image] is drawing]
    return kept, len(dropped) - contradicted, contradicted


def assign(drawings: Iterable[Drawing]) -> dict[str, list[Drawing]]:
    """Divides drawings among SPLITS by hashes of names, so that adding or removing others moves no drawing.

    - "unseen_concept": families that training never sees, in the training styles.
    - "unseen_style": the other families, drawn by UNSEEN_STYLE.
    - "seen_style": one vendor's drawings of some of the concepts that other training vendors draw too.
    - "train": the rest.
    """
    divided: dict[str, list[Drawing]] = {split: [] for split in SPLITS}
    by_concept: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in drawings:
        unseen_concept = chance("concept", family(drawing.emoji.concept)) < UNSEEN_CONCEPTS
        if drawing.vendor != UNSEEN_STYLE and unseen_concept:
            divided["unseen_concept"].append(drawing)
        elif drawing.vendor == UNSEEN_STYLE and not unseen_concept:
            divided["unseen_style"].append(drawing)
        elif drawing.vendor != UNSEEN_STYLE:
            by_concept[drawing.emoji.concept].append(drawing)
    for concept, drawn in by_concept.items():
        held_out = held_out_vendor(concept, {drawing.vendor for drawing in drawn})
        for drawing in drawn:
            divided["seen_style" if drawing.vendor == held_out else "train"].append(drawing)
    return divided


def held_out_vendor(concept: str, vendors: set[str]) -> str | None:
    """Returns the training vendor whose drawings of `concept` are held out, or None (most often, or if only one)."""
    if len(vendors) < 2 or chance("style", concept) >= SEEN_STYLE:
        return None
    return min(vendors, key=lambda vendor: chance("vendor", f"{concept}:{vendor}"))
