"""The two figures as PNG: one axes in inches, so that everything stands where it is put."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 200
CELL, GAP, MARGIN = 0.86, 0.07, 0.12  # inches
LABEL, LINE = 0.17, 0.14  # inches: a row for a label over a cell, one for the number below it
LEFT = 0.75  # inches for the labels of rows
SIZE, SMALL = 8.0, 6.5  # points
COLUMNS = 9  # gradient maps a line, the image's column included
STRENGTH = 0.62  # how far an overlay covers the image
GRADIENT_COLOURS, ATTENTION_COLOURS = matplotlib.colormaps["viridis"], matplotlib.colormaps["turbo"]


@dataclass(frozen=True)
class GradientRow:
    """One run's part of the gradient figure."""

    label: str
    maps: np.ndarray
    """[L, h, w], each from 0 to 1."""
    shares: np.ndarray
    """[L]: share of gradient energy."""
    reached: int
    """The first so many layers are read; the others get no gradient."""


@dataclass(frozen=True)
class AttentionBlock:
    """One run's part of the attention figure."""

    label: str
    rows: Sequence[str]
    """S names of depths."""
    maps: np.ndarray
    """[S, K, h, w], each from 0 to 1."""
    areas: np.ndarray
    """[S, K]: effective areas."""


def gradient_figure(picture: np.ndarray, caption: str, rows: Sequence[GradientRow]) -> bytes:
    """Image, then every layer from first to last, a line or more a run; `picture` uint8 [P, P, 3]."""
    columns = min(COLUMNS, 1 + max(len(row.maps) for row in rows))
    per_line = columns - 1
    lines = [-(-len(row.maps) // per_line) for row in rows]
    height = LABEL + CELL + LINE + GAP
    page = _Page(2 * MARGIN + LEFT + columns * (CELL + GAP), sum(lines) * height, caption)
    top = page.top
    for row, count in zip(rows, lines, strict=True):
        page.side_label(row.label, top + LABEL + CELL / 2)
        page.cell(picture, 0, top, over="image")
        for layer, (values, share) in enumerate(zip(row.maps, row.shares, strict=True)):
            line, column = divmod(layer, per_line)
            over = f"layer {layer + 1}" if column == 0 else f"{layer + 1}"
            if layer < row.reached:
                page.cell(GRADIENT_COLOURS(values), column + 1, top + line * height, over, f"{100 * share:.1f} %")
            else:
                page.blank("not read", column + 1, top + line * height, over)
        top += count * height
    page.legend(
        GRADIENT_COLOURS,
        "Gradient of the caption loss at each encoder layer's patch tokens, L2 norm over channels, each map from its "
        "minimum (dark) to its maximum (bright). Below: the layer's share of the summed squared norms.",
        1.0,
    )
    return page.png()


def attention_figure(
    picture: np.ndarray, caption: str, words: Sequence[str], blocks: Sequence[AttentionBlock], head: str
) -> bytes:
    """Rows depths, columns words, runs side by side; `picture` uint8 [P, P, 3]; `head` says which heads are shown."""
    space = 0.35 + LEFT if len(blocks) > 1 else 0.0  # between two runs, for the second one's row labels
    width = len(words) * (CELL + GAP)
    most = max(len(block.rows) for block in blocks)
    height = CELL + LINE + GAP
    shift = CELL + GAP  # the image's column
    total = 2 * MARGIN + LEFT + shift + len(blocks) * width + (len(blocks) - 1) * space
    page = _Page(total, most * height + 2 * LABEL, caption)
    page.cell(picture, 0, page.top + LABEL, over="image")
    for number, block in enumerate(blocks):
        left = page.left + shift + number * (width + space)
        page.text(left + width / 2, page.top + LABEL / 2, block.label, weight="bold")
        for column, word in enumerate(words):
            at = left + column * (CELL + GAP) + CELL / 2
            page.text(at, page.top + 1.5 * LABEL, word, size=_fit(word, CELL + GAP), style="italic")
        for row, name in enumerate(block.rows):
            top = page.top + LABEL + row * height
            # The first run's labels stand left of the image's column only where that column is empty.
            page.text(left - 0.08, top + LABEL + CELL / 2, name, size=SMALL, ha="right")
            for column in range(len(words)):
                area = f"{100 * block.areas[row, column]:.0f} %"
                shown = overlay(picture, block.maps[row, column])
                page.cell(shown, (left - page.left) / (CELL + GAP) + column, top, below=area)
    page.legend(
        ATTENTION_COLOURS,
        f"Attention of each word's tokens to the patches, {head}, each map from its minimum (blue) to its maximum "
        "(red). Below: effective area, exp(entropy) as a share of the patches.",
        STRENGTH,
    )
    return page.png()


def overlay(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map [h, w] from 0 to 1 in colour over the greyed picture, a block a patch: float [P, P, 3]."""
    size = len(picture)
    rows, columns = (np.arange(size) * side // size for side in values.shape)
    grey = picture.astype(float) @ [0.299, 0.587, 0.114] / 255
    colour = ATTENTION_COLOURS(values[rows][:, columns])[..., :3]
    return (1 - STRENGTH) * grey[..., None] + STRENGTH * colour


class _Page:
    """A figure of given content, with the caption on top and a legend at the bottom."""

    def __init__(self, width: float, content: float, caption: str) -> None:
        self.caption = textwrap.wrap(f"“{caption}”", int(0.95 * width * 72 / (0.52 * SIZE)), max_lines=2)
        self.foot = 4 * LINE
        self.left, self.top = MARGIN + LEFT, MARGIN + LABEL * len(self.caption) + 0.05
        height = self.top + content + self.foot + MARGIN
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        for line, text in enumerate(self.caption):
            self.text(MARGIN, MARGIN + LABEL * (line + 0.5), text, ha="left", style="italic")

    def text(self, x: float, y: float, text: str, size: float = SIZE, ha: str = "center", **style: Any) -> None:
        """One line, centred on height y; a caption's dollar signs are no formula."""
        self.axes.text(x, y, text, fontsize=size, ha=ha, va="center", parse_math=False, **style)

    def side_label(self, text: str, y: float) -> None:
        """A run's name left of its rows."""
        lines = textwrap.wrap(text, 11, break_long_words=True, max_lines=3)
        for line, part in enumerate(lines):
            self.text(self.left - 0.08, y + (line - (len(lines) - 1) / 2) * LINE, part, ha="right", weight="bold")

    def cell(self, image: np.ndarray, column: float, top: float, over: str = "", below: str = "") -> None:
        """A picture or map, with a label over it and a number below."""
        x, y = self.left + column * (CELL + GAP), top + LABEL
        smooth = "auto" if image.shape[0] > 64 else "nearest"
        self.axes.imshow(image, extent=(x, x + CELL, y + CELL, y), aspect="auto", interpolation=smooth)
        self._labels(x, y, over, below)

    def blank(self, text: str, column: float, top: float, over: str) -> None:
        """A cell with nothing to show."""
        x, y = self.left + column * (CELL + GAP), top + LABEL
        self.axes.fill([x, x + CELL, x + CELL, x], [y, y, y + CELL, y + CELL], color="0.93")
        self.text(x + CELL / 2, y + CELL / 2, text, size=SMALL)
        self._labels(x, y, over, "")

    def _labels(self, x: float, y: float, over: str, below: str) -> None:
        self.text(x + CELL / 2, y - LABEL / 2, over, size=SMALL)
        self.text(x + CELL / 2, y + CELL + LINE / 2, below, size=SMALL)

    def legend(self, colours: matplotlib.colors.Colormap, text: str, strength: float) -> None:
        """Colour bar and what it means, at the bottom; `strength` as the maps are laid over white."""
        ramp = colours(np.linspace(0, 1, 256)[None])[..., :3] * strength + (1 - strength)
        y, x, length = self.height - MARGIN - self.foot + LINE, MARGIN, 0.9
        self.axes.imshow(ramp, extent=(x, x + length, y + 0.1, y), aspect="auto")
        self.text(x, y + 0.19, "min", size=SMALL, ha="left")
        self.text(x + length, y + 0.19, "max", size=SMALL, ha="right")
        start = x + length + 0.15
        lines = textwrap.wrap(text, int((self.width - start - MARGIN) * 72 / (0.5 * SMALL)), max_lines=4)
        for line, part in enumerate(lines):
            self.text(start, y + (line - 0.1) * LINE, part, size=SMALL, ha="left")

    def png(self) -> bytes:
        """The figure, encoded."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png")
        return buffer.getvalue()


def _fit(word: str, width: float) -> float:
    """Points at which a word fits into `width` inches, SMALL - 2 at least."""
    return max(SMALL - 2, min(SIZE, width * 72 / (0.6 * max(1, len(word)))))
