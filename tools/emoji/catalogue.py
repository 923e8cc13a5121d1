"""Reads the list of emoji with their names, and each vendor's drawings of them."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoji.packages import read_json

TONES = {1: "light", 2: "medium-light", 3: "medium", 4: "medium-dark", 5: "dark"}
COMPONENT = "component"
"""The group of skin-tone swatches and hair styles, which are parts of emoji and not pictures of anything."""


@dataclass(frozen=True)
class Emoji:
    """One emoji: the text and metadata of a pair, the same for every vendor."""

    hexcode: str
    """Code points in upper-case hexadecimal, joined by "-"."""
    concept: str
    """Hexcode of the emoji without skin tone; `hexcode` itself where there is none."""
    caption: str
    """CLDR label in English, such as "woman running" or "flag: Norway"."""
    group: str
    subgroup: str
    tone: str
    """"" without a skin tone; else "light" ... "dark", joined by "," where two people have one each."""
    tags: tuple[str, ...]
    """CLDR keywords."""
    order: int
    """Rank in CLDR's collation, which puts similar emoji side by side."""


@dataclass(frozen=True)
class Icons:
    """One vendor's drawings, found by emoji."""

    icons: dict[str, dict[str, Any]]
    aliases: dict[str, dict[str, Any]]
    width: int
    height: int
    by_hexcode: dict[str, str]
    """Names of drawings by normalised hexcode; empty for packages that list no characters."""

    def name(self, emoji: Emoji) -> str:
        """Returns the name that this vendor's drawing of `emoji` has, if there is one."""
        return self.by_hexcode.get(normalised(emoji.hexcode), slug(emoji.caption))

    def is_alias(self, emoji: Emoji) -> bool:
        """True if the vendor lists the emoji's name as an alias of another drawing's name."""
        return self.name(emoji) in self.aliases

    def svg(self, emoji: Emoji) -> str | None:
        """Returns the drawing of `emoji` as an SVG document, or None if this vendor has none."""
        name, flipped = self.name(emoji), False
        while name in self.aliases:
            alias = self.aliases[name]
            assert set(alias) <= {"parent", "hFlip"}, f"alias {name} asks for a transformation that is not supported"
            flipped ^= alias.get("hFlip", False)
            name = alias["parent"]
        if name not in self.icons:
            return None
        icon = self.icons[name]
        width, height = icon.get("width", self.width), icon.get("height", self.height)
        body = icon["body"]
        if flipped:
            body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
        # A drawing that is not square keeps its proportions: SVG centres it in the square picture by default.
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="100" height="100" viewBox="0 0 {width} {height}">{body}</svg>'
        )


def read_icons(archive: Path) -> Icons:
    """Reads an Iconify package ("icons.json", "chars.json")."""
    pack = read_json(archive, "icons.json")
    characters = read_json(archive, "chars.json")
    return Icons(
        icons=pack["icons"],
        aliases=pack.get("aliases", {}),
        width=pack["width"],
        height=pack["height"],
        by_hexcode={normalised(hexcode): name for hexcode, name in characters.items()},
    )


def read_emoji(archive: Path, tones: bool) -> list[Emoji]:
    """Returns every emoji of emojibase-data in CLDR's order; those with a skin tone only if `tones`."""
    names = read_json(archive, "meta/groups.json")
    emoji = []
    for entry in read_json(archive, "en/data.json"):
        # Single regional indicators have no group: they are letters that spell flags, not pictures.
        if "group" not in entry:
            continue
        group = names["groups"][str(entry["group"])]
        if group == COMPONENT:
            continue
        for variant in [entry, *(entry.get("skins", []) if tones else [])]:
            emoji.append(
                Emoji(
                    hexcode=variant["hexcode"],
                    concept=entry["hexcode"],
                    caption=variant["label"],
                    group=group,
                    subgroup=names["subgroups"][str(entry["subgroup"])],
                    tone=",".join(tone_names(variant.get("tone"))),
                    tags=tuple(entry.get("tags", [])),
                    order=variant["order"],
                )
            )
    return sorted(emoji, key=lambda one: one.order)


def tone_names(tone: int | list[int] | None) -> Iterator[str]:
    """Yields the names of emojibase's tone numbers: none, one, or one a person."""
    for number in [tone] if isinstance(tone, int) else tone or []:
        yield TONES[number]


def normalised(hexcode: str) -> str:
    """Returns a hexcode in lower case and without variation selectors, about which the packages disagree."""
    return "-".join(point for point in hexcode.lower().split("-") if point != "fe0f")


def slug(label: str) -> str:
    """Returns the name that Iconify gives to a CLDR label: "flag: Norway" becomes "flag-norway"."""
    spelled = re.sub("[’'“”]", "", label).replace("&", "and").replace("*", "asterisk").replace("#", "pound")
    ascii_only = unicodedata.normalize("NFKD", spelled).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", ascii_only.lower()).strip("-")
