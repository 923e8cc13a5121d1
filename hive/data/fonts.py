"""Fonts that have the letters of any text: matplotlib's own first, then those of the machine."""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FaceFlags, FT2Font
from PIL import ImageFont

_MAIN = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
_INVISIBLE = ("Cc", "Cf", "Mn", "Me")  # Unicode's categories of controls and of marks on other characters


class Fonts:
    """Draws texts of all scripts at one size, and notes the characters that no font has."""

    def __init__(self, size: int, files: Sequence[str] | None = None) -> None:
        """`size` in pixels; `files` are the fonts behind the main one, those of the machine by default."""
        self.size = size
        self.main = ImageFont.truetype(str(_MAIN), size)
        self.missing: set[str] = set()
        self._files = files
        self._loaded: dict[str, ImageFont.FreeTypeFont] = {}
        self._files_of: dict[str, str | None] = {}
        self._main_letters = frozenset(FT2Font(str(_MAIN)).get_charmap())

    @cached_property
    def _others(self) -> list[tuple[str, frozenset[int]]]:
        """(file, the characters that it has) of the other fonts, upright ones of normal weight first."""
        files = font_manager.findSystemFonts() if self._files is None else self._files
        found = []
        for file in sorted(files, key=lambda file: ("regular" not in file.lower(), file)):
            try:
                font = FT2Font(file)
            except (OSError, RuntimeError):  # not a font that FreeType reads
                continue
            # glyphs that are pictures scale badly, or can't be drawn in one colour
            if font.scalable and FaceFlags.COLOR not in font.face_flags:
                found.append((file, frozenset(font.get_charmap())))
        return found

    def _font_of(self, character: str) -> str | None:
        """The file of a font that has the character, "" for the main one; None where none has."""
        if character not in self._files_of:
            code = ord(character)
            others = (file for file, letters in self._others if code in letters)
            self._files_of[character] = "" if code in self._main_letters else next(others, None)
        return self._files_of[character]

    def spell(self, text: str) -> str:
        """The text with names in brackets for characters that no font has: "[dog face]", or "[3 x cjk]" for a run.

        Marks that only join or vary characters are left out.
        """
        parts = []
        for is_missing, run in groupby(text, self._is_missing):
            if not is_missing:
                parts.append("".join(run))
                continue
            characters = [character for character in run if unicodedata.category(character) not in _INVISIBLE]
            self.missing.update(characters)
            parts.append(_name(characters))
        return "".join(parts)

    def _is_missing(self, character: str) -> bool:
        return not character.isspace() and self._font_of(character) is None

    def runs(self, text: str) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
        """Parts of a text that `spell` gave, each with a font that has all its characters."""
        for file, run in groupby(text, lambda character: " " if character == " " else self._font_of(character)):
            yield "".join(run), self._load(file)

    def _load(self, file: str | None) -> ImageFont.FreeTypeFont:
        if file in (None, "", " "):
            return self.main
        if file not in self._loaded:
            self._loaded[file] = ImageFont.truetype(file, self.size)
        return self._loaded[file]

    def width(self, text: str) -> float:
        """Pixels that a text takes on a line."""
        return sum(font.getlength(run) for run, font in self.runs(text))


def _name(characters: Sequence[str]) -> str:
    names = [_name_character(character) for character in characters]
    if len(names) < 2:
        return f"[{names[0]}]" if names else ""
    scripts = {name.split()[0] for name in names}
    return f"[{len(names)} x {scripts.pop()}]" if len(scripts) == 1 else f"[{', '.join(names)}]"


def _name_character(character: str) -> str:
    """Unicode's name; for one that ends in the character's number, the script and the number: "cjk 732b"."""
    number = f"{ord(character):04X}"
    name = unicodedata.name(character, f"U+{number}")
    return (f"{name.split()[0]} {number}" if name.endswith(f"-{number}") else name).lower()
