"""A picture of a few pairs as a model reads them: the image at the tower's size, the caption with its cut-off part."""

import io
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hive.data.check import Findings
from hive.data.fonts import Fonts
from hive.data.images import BadImage, load
from hive.data.loader import read_image
from hive.data.pairs import hash_order
from hive.data.summary import Reading

PAIRS, COLUMNS = 16, 4
SMALLEST, LARGEST = 224, 384  # pixels of a shown image's side
LINES = 10  # of a caption
MARGIN, GAP = 24, 20  # pixels
INK, GREY, RED = (32, 32, 32), (120, 120, 120), (178, 24, 43)
EDGE = (208, 208, 208)


@dataclass(frozen=True, eq=False)
class Cell:
    """One pair of the sheet."""

    name: str
    """Where the image is."""
    size: str
    """Its width and height before it is resized."""
    pixels: np.ndarray
    """uint8 [H, W, 3], as the tower reads it."""
    kept: str
    """What the model reads of the caption."""
    cut: str
    """What is cut off."""


class Piece(NamedTuple):
    """A part of a line in one colour."""

    text: str
    is_cut: bool


def choose_cells(findings: Findings, reading: Reading) -> list[Cell]:
    """Up to `PAIRS` usable pairs with different images, chosen by hash: the same data gives the same sheet."""
    pairs, options = findings.pairs, reading.options
    bad_texts = {fault.pair for fault in findings.facts.faults if not fault.of_image}
    usable = [image for image in findings.facts.images if image.pair not in bad_texts]
    cells: list[Cell] = []
    for position in hash_order([pairs.names[image.pair] for image in usable], 0):
        index, header, _ = usable[position]
        try:
            pixels = load(read_image(pairs, index), reading.spec, options.max_megapixels)
        except BadImage:
            continue  # a header does not show everything
        kept, cut = reading.encoder.show(pairs.texts(index)[0], options.max_text_tokens)
        size = f"{header.width}x{header.height}"
        cells.append(Cell(pairs.name(index), size, pixels.numpy().transpose(1, 2, 0), kept, cut))
        if len(cells) == PAIRS:
            break
    return cells


def draw_sheet(cells: Sequence[Cell], title: str, subtitle: str, fonts: Fonts) -> bytes:
    """The sheet as PNG. `fonts.missing` then has the characters that could not be drawn."""
    side = _shown_side(cells[0].pixels.shape[0])
    small = ImageFont.truetype(str(fonts.main.path), fonts.size - 3)
    line = round(1.35 * fonts.size)
    captions = [_wrap(cell, side, fonts) for cell in cells]
    rows = [range(first, min(first + COLUMNS, len(cells))) for first in range(0, len(cells), COLUMNS)]
    heights = [side + 2 * line + max(len(captions[number]) for number in row) * line + GAP for row in rows]
    columns = min(COLUMNS, len(cells))
    width = max(2 * MARGIN + columns * (side + GAP) - GAP, 2 * MARGIN + 2 * side)
    heading = _break(f"{title}\n{subtitle}", width - 2 * MARGIN, fonts)
    top = MARGIN + len(heading) * line + GAP
    sheet = Image.new("RGB", (width, top + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(heading):
        _write(draw, MARGIN, MARGIN + number * line, [Piece(text, False)], fonts, INK if number == 0 else GREY)
    for row, height in zip(rows, heights, strict=True):
        for column, number in enumerate(row):
            left = MARGIN + column * (side + GAP)
            _show(sheet, draw, cells[number].pixels, left, top, side)
            room = side - small.getlength(f"  {cells[number].size}")
            draw.text((left, top + side + 6), _shorten(fonts.spell(cells[number].name), room, small), GREY, small)
            draw.text((left + side, top + side + 6), cells[number].size, GREY, small, anchor="ra")
            for below, pieces in enumerate(captions[number]):
                _write(draw, left, top + side + line + 6 + below * line, pieces, fonts, INK)
        top += height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _shown_side(size: int) -> int:
    """Small images are enlarged by a whole factor, so that each of their pixels is a square; large ones shrink."""
    return min(LARGEST, size * -(-SMALLEST // size))


def _show(sheet: Image.Image, draw: ImageDraw.ImageDraw, pixels: np.ndarray, left: int, top: int, side: int) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    method = Image.Resampling.NEAREST if image.width <= side else Image.Resampling.LANCZOS
    sheet.paste(image.resize((side, side), method), (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=EDGE)


def _wrap(cell: Cell, width: int, fonts: Fonts) -> list[list[Piece]]:
    """The caption in lines of at most `width` pixels; of a longer one than `LINES` the last line says how much more."""
    kept, cut = fonts.spell(cell.kept.rstrip()), fonts.spell(cell.cut.rstrip())
    text = kept + cut
    lines: list[list[Piece]] = []
    position = inside = 0
    for line in _break(text[: LINES * width], width, fonts)[:LINES]:  # a character has a pixel or more
        start = text.index(line, position)
        position = start + len(line)
        inside = min(max(len(kept) - start, 0), len(line))
        lines.append([Piece(line[:inside], False), Piece(line[inside:], True)])
    if left := len(text[position:].strip()):
        left += sum(len(piece.text) for piece in lines[-1])
        lines[-1] = [Piece(f"… {left:,} more characters", inside == 0)]
    return lines


def _break(text: str, width: float, fonts: Fonts) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces, and inside a word that is longer than a line."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in re.findall(r"\s*\S+", paragraph):
            if fonts.width(line + word) <= width:
                line += word
                continue
            if line:
                lines.append(line)
            line = word.lstrip()
            while (fits := _fitting(line, width, fonts)) < len(line):
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line)
    return [line for line in lines if line]


def _fitting(line: str, width: float, fonts: Fonts) -> int:
    """How many characters of a line have room, at least 1."""
    lengths = range(1, min(len(line), int(width)) + 1)
    return max(1, bisect_right(lengths, width, key=lambda length: fonts.width(line[:length])))


def _write(
    draw: ImageDraw.ImageDraw, left: float, top: float, pieces: Sequence[Piece], fonts: Fonts, ink: tuple[int, int, int]
) -> None:
    """Writes one line; what is cut is red and struck out."""
    base = top + fonts.size
    for text, is_cut in reversed(pieces) if _runs_leftwards(pieces) else pieces:
        start = left
        for run, font in fonts.runs(text):
            draw.text((left, base), run, RED if is_cut else ink, font, anchor="ls")
            left += font.getlength(run)
        if is_cut and text:
            start += fonts.width(text) - fonts.width(text.lstrip())
            draw.line((start, base - 0.3 * fonts.size, left, base - 0.3 * fonts.size), RED, 1)


def _runs_leftwards(pieces: Sequence[Piece]) -> bool:
    """Whether a line begins on the right, as in Arabic and Hebrew. Pillow orders the letters of a piece by itself."""
    directions = (unicodedata.bidirectional(character) for text, _ in pieces for character in text)
    return next((way != "L" for way in directions if way in ("L", "R", "AL")), False)


def _shorten(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """The text without a part in its first half where it is too long: the end of a path tells most."""
    shown, left_out = text, 0
    while font.getlength(shown) > width:
        left_out += 1
        start = (len(text) - left_out) // 4
        shown = f"{text[:start]}…{text[start + left_out :]}"
    return shown
