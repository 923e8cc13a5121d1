"""The two figures as PNG. A figure has one axes with coordinates in inches, in which everything has a fixed place."""

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

DPI = 200
NARROWEST = 4.5  # inches, so that the legend has room
CELL, GAP, MARGIN = 0.86, 0.07, 0.12  # inches
LABEL, LINE = 0.17, 0.14  # inches: a row for a label over a cell, one for the number below it
LEFT = 0.75  # inches for the labels of rows
SIZE, SMALL = 8.0, 6.5  # points
LONGEST = 22  # characters of a word
COLUMNS = 9  # cells in a line of gradient maps, the image's included
STRENGTH = 0.75  # opacity of a map's maximum over the image; its minimum is transparent
GRADIENT_COLOURS, ATTENTION_COLOURS = matplotlib.colormaps["viridis"], matplotlib.colormaps["YlOrRd"]


@dataclass(frozen=True)
class GradientRow:
    """One run's part of the gradient figure."""

    label: str
    picture: np.ndarray
    """uint8 [P, P, 3]: the part of the image that this run sees."""
    maps: np.ndarray
    """[L, h, w], each from 0 to 1."""
    shares: np.ndarray
    """[L]: each layer's share of the gradient energy, 0..1."""
    reached: int
    """Number of layers that are read, from the first; those above get no gradient."""


@dataclass(frozen=True)
class AttentionBlock:
    """One run's part of the attention figure."""

    label: str
    picture: np.ndarray
    """uint8 [P, P, 3]: the part of the image that this run sees."""
    rows: Sequence[str]
    """S names of depths."""
    maps: np.ndarray
    """[S, K, h, w], each from 0 to 1."""
    entropies: np.ndarray
    """[S, K], nats."""
    areas: np.ndarray
    """[S, K]: effective areas, as shares of the image."""
    sums: np.ndarray
    """[S, K]: the share of attention that falls on the image."""

    @property
    def shares_with_text(self) -> bool:
        """Whether a part of the attention falls on the text."""
        return bool(self.sums.min() < 0.9999)


def gradient_figure(caption: str, rows: Sequence[GradientRow]) -> bytes:
    """Returns a PNG: for each run the image, then every layer from first to last, in one or more lines."""
    columns = min(COLUMNS, 1 + max(len(row.maps) for row in rows))
    per_line = columns - 1
    lines = [-(-len(row.maps) // per_line) for row in rows]
    height = LABEL + CELL + LINE + GAP
    page = _Page(2 * MARGIN + LEFT + columns * (CELL + GAP) - GAP, sum(lines) * height, caption, MARGIN + LEFT)
    top = page.top
    at = [page.left + column * (CELL + GAP) for column in range(columns)]
    for row, count in zip(rows, lines, strict=True):
        page.side_label(row.label, top + LABEL + CELL / 2)
        page.cell(row.picture, at[0], top, over="image")
        for layer, (values, share) in enumerate(zip(row.maps, row.shares, strict=True)):
            line, column = divmod(layer, per_line)
            over = f"layer {layer + 1}" if column == 0 else f"{layer + 1}"
            if layer < row.reached:
                page.cell(GRADIENT_COLOURS(values), at[column + 1], top + line * height, over, f"{share:.1%}")
            else:
                page.blank("not read", at[column + 1], top + line * height, over)
        top += count * height
    page.legend(
        GRADIENT_COLOURS(np.linspace(0, 1, 256)[None]),
        "Gradient of the caption loss at each encoder layer's patch tokens, L2 norm over channels, each map from its "
        "minimum (dark) to its maximum (bright). Below: the layer's share of the summed squared norms.",
    )
    return page.png()


def attention_figure(caption: str, words: Sequence[str], blocks: Sequence[AttentionBlock], head: str) -> bytes:
    """Returns a PNG: rows are depths, columns are words, runs are side by side; `head` names the heads shown."""
    width = len(words) * (CELL + GAP)
    shared = any(block.shares_with_text for block in blocks)
    height = CELL + (2 if shared else 1) * LINE + GAP
    content = max(len(block.rows) for block in blocks) * height + 2 * LABEL
    page = _Page(2 * MARGIN + CELL + len(blocks) * (LEFT + width), content, caption, MARGIN)
    page.cell(blocks[0].picture, MARGIN, page.top + LABEL, over="image")
    for number, block in enumerate(blocks):
        left = MARGIN + CELL + LEFT + number * (LEFT + width)
        page.text(left + (width - GAP) / 2, page.top + LABEL / 2, block.label, weight="bold")
        for column, word in enumerate(words):
            at = left + column * (CELL + GAP) + CELL / 2
            page.text(at, page.top + 1.5 * LABEL, shorten(word), size=_fit_size(shorten(word)), style="italic")
        for row, name in enumerate(block.rows):
            top = page.top + LABEL + row * height
            page.text(left - 0.08, top + LABEL + CELL / 2, name, size=SMALL, ha="right")
            for column in range(len(words)):
                shown, x = overlay(block.picture, block.maps[row, column]), left + column * (CELL + GAP)
                page.cell(shown, x, top, below=f"{block.entropies[row, column]:.2f}, {block.areas[row, column]:.0%}")
                if block.shares_with_text:
                    page.below(f"{block.sums[row, column]:.2f}", x, top, line=1)
    page.legend(
        overlay(np.full((256, 256, 3), 200, np.uint8), np.linspace(0, 1, 256)[None]),
        f"Attention of each word's tokens to the patches, {head}, each map from its minimum (grey) to its maximum "
        "(red). Below: entropy in nats and effective area, which is exp(entropy) as a share of the patches"
        + (
            "; in the second line the part of the attention that falls on the image, not on the text."
            if shared
            else "."
        ),
    )
    return page.png()


def overlay(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns a map [h, w], 0..1, in colour over the greyed picture, a block for each patch: uint8 [P, P, 3]."""
    size = len(picture)
    rows, columns = (np.arange(size) * side // size for side in values.shape)
    grey = picture.astype(float) @ [0.299, 0.587, 0.114] / 255
    blocks = values[rows][:, columns]
    cover = STRENGTH * blocks[..., None] ** 0.5
    colour = (1 - cover) * (0.25 + 0.75 * grey[..., None]) + cover * ATTENTION_COLOURS(0.9 * blocks)[..., :3]
    return (255 * colour).round().clip(0, 255).astype(np.uint8)


class _Page:
    """A figure with the caption at the top, the content that is drawn below it, and a legend at the bottom."""

    def __init__(self, width: float, content: float, caption: str, left: float) -> None:
        """`width` of the page, height of the `content` and its `left` edge, in inches."""
        width = max(width, NARROWEST)
        lines = textwrap.wrap(f"“{caption}”", int((width - 2 * MARGIN) * 72 / (0.6 * SIZE)), max_lines=3)
        self.left, self.top = left, MARGIN + LABEL * len(lines) + 0.05
        self.width, self.foot = width, self.top + content
        self.figure = Figure(dpi=DPI)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        for line, text in enumerate(lines):
            self.text(MARGIN, MARGIN + LABEL * (line + 0.5), text, ha="left", style="italic")

    def text(self, x: float, y: float, text: str, size: float = SIZE, ha: str = "center", **style: Any) -> None:
        """Writes text centred on height y; dollar signs in a caption don't start a formula."""
        self.axes.text(x, y, text, fontsize=size, ha=ha, va="center", parse_math=False, **style)

    def side_label(self, text: str, y: float) -> None:
        """Writes a run's name to the left of its rows."""
        lines = textwrap.wrap(text, 11, max_lines=3)
        self.text(self.left - 0.08, y, "\n".join(lines), ha="right", weight="bold")

    def cell(self, image: np.ndarray, x: float, top: float, over: str = "", below: str = "") -> None:
        """Draws a picture or map, with a label over it and a number below."""
        y = top + LABEL
        smooth = "auto" if image.shape[0] > 64 else "nearest"
        self.axes.imshow(image, extent=(x, x + CELL, y + CELL, y), aspect="auto", interpolation=smooth)
        self._frame(x, y, over, below)

    def blank(self, text: str, x: float, top: float, over: str) -> None:
        """Draws a grey cell with a text in place of a map."""
        self.text(x + CELL / 2, top + LABEL + CELL / 2, text, size=SMALL)
        self._frame(x, top + LABEL, over, "", face="0.95")

    def _frame(self, x: float, y: float, over: str, below: str, face: str = "none") -> None:
        self.axes.add_patch(Rectangle((x, y), CELL, CELL, facecolor=face, edgecolor="0.6", linewidth=0.5))
        self.text(x + CELL / 2, y - LABEL / 2, over, size=SMALL)
        self.below(below, x, y - LABEL)

    def below(self, text: str, x: float, top: float, line: int = 0) -> None:
        """Writes a number under a cell; `line` counts from 0."""
        self.text(x + CELL / 2, top + LABEL + CELL + (line + 0.5) * LINE, text, size=SMALL)

    def legend(self, ramp: np.ndarray, text: str) -> None:
        """Draws the colour bar, minimum left, and its meaning at the bottom. Nothing can be drawn below it."""
        y, x, length = self.foot + LINE, MARGIN, 0.9
        self.axes.imshow(ramp, extent=(x, x + length, y + 0.1, y), aspect="auto")
        self.text(x, y + 0.19, "min", size=SMALL, ha="left")
        self.text(x + length, y + 0.19, "max", size=SMALL, ha="right")
        start = x + length + 0.15
        lines = textwrap.wrap(text, int((self.width - start - MARGIN) * 72 / (0.53 * SMALL)))
        for line, part in enumerate(lines):
            self.text(start, y + (line + 0.35) * LINE, part, size=SMALL, ha="left")
        self.foot = y + LINE * max(2, len(lines))

    def png(self) -> bytes:
        """Returns the figure as PNG."""
        height = self.foot + MARGIN
        self.figure.set_size_inches(self.width, height)
        self.axes.set(xlim=(0, self.width), ylim=(height, 0))
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # matplotlib draws a box for it
            self.figure.savefig(buffer, format="png")
        return buffer.getvalue()


def shorten(word: str) -> str:
    """Returns a word, cut to what fits over a cell and into a table."""
    return word if len(word) <= LONGEST else f"{word[: LONGEST - 1]}…"


def _fit_size(word: str) -> float:
    """Returns the font size, in points, at which a word of up to `LONGEST` characters fits over a cell."""
    return min(SIZE, (CELL + GAP) * 72 / (0.62 * max(1, len(word))))
