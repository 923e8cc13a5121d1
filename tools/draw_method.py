"""Draws docs/method.png (what HIVE trains and how) and docs/batch.png (how a batch becomes a loss).

    python tools/draw_method.py             # into docs/
    python tools/draw_method.py --out DIR

Lengths are inches; a page shows a picture about 800 pixels wide, where an inch is 80 of them and 10 points are 11.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

from hive.model.alignment import align_depths, select_hidden_states

Point = tuple[float, float]

WIDTH, DPI = 10.0, 160
SMALL, NORMAL, LARGE = 10.5, 12.0, 15.0  # points
INK, GREY, PALE = "#1f2933", "#5c6773", "#eef0f2"
IMAGE, PROJECTOR, CROSS, TEXT, LOSS = "#2a9d8f", "#e9a23b", "#8e5fb5", "#4178be", "#c8553d"


def tint(colour: str, share: float) -> tuple[float, float, float]:
    """`share` of a colour such as "#2a9d8f" on white."""
    channels = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    red, green, blue = (1 - share * (1 - channel) for channel in channels)
    return red, green, blue


class Canvas:
    """A white picture of `WIDTH` by `height` inches; (0, 0) is its lower left corner."""

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
        self.axes.axis("off")

    def write(
        self, x: float, y: float, words: str, size: float = SMALL, colour: str = INK, bold: bool = False, **how: str
    ) -> None:
        """Writes text whose middle, or the side that `ha` and `va` name, is at (x, y)."""
        place = {"ha": "center", "va": "center", **how}
        self.axes.text(x, y, words, fontsize=size, color=colour, fontweight="bold" if bold else "normal", **place)  # type: ignore[arg-type]

    def box(self, x: float, y: float, width: float, height: float, colour: str, share: float = 0.25) -> None:
        """Draws a filled rectangle with rounded corners, its lower left one at (x, y)."""
        shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.05")
        shape.set(facecolor=tint(colour, share), edgecolor=colour, linewidth=1.3)
        self.axes.add_patch(shape)

    def arrow(self, *points: Point, colour: str = INK) -> None:
        """Draws a line through the points with a head at the last one."""
        self.axes.plot([x for x, _ in points[:-1]], [y for _, y in points[:-1]], color=colour, linewidth=1.4)
        how = {"arrowstyle": "-|>,head_width=0.22,head_length=0.42", "color": colour, "linewidth": 1.4}
        self.axes.annotate("", points[-1], points[-2], arrowprops={**how, "shrinkA": 0, "shrinkB": 0})

    def tokens(self, x: float, y: float, colours: Sequence[str], pitch: float = 0.2) -> None:
        """Draws a row of small squares, the first one's lower left corner at (x, y)."""
        for number, colour in enumerate(colours):
            self.axes.add_patch(Rectangle((x + number * pitch, y), 0.7 * pitch, 0.7 * pitch, color=tint(colour, 0.9)))

    def plus(self, x: float, y: float, colour: str) -> None:
        """Draws the sign of an addition, in a circle around (x, y)."""
        self.axes.add_patch(Circle((x, y), 0.07, facecolor="white", edgecolor=colour, zorder=3))
        self.axes.plot([x - 0.04, x + 0.04], [y, y], color=colour, linewidth=1.3, zorder=4)
        self.axes.plot([x, x], [y - 0.04, y + 0.04], color=colour, linewidth=1.3, zorder=4)

    def photograph(self, x: float, y: float, side: float) -> None:
        """Draws a landscape in a frame, cut into patches; its lower left corner is at (x, y)."""
        corners = [(0.0, 0.0), (0.0, 0.25), (0.3, 0.55), (0.5, 0.35), (0.75, 0.65), (1.0, 0.3), (1.0, 0.0)]
        self.axes.add_patch(Rectangle((x, y), side, side, color="#cfe8f7"))
        self.axes.add_patch(Circle((x + 0.25 * side, y + 0.78 * side), 0.1 * side, color="#f4b740"))
        self.axes.add_patch(Polygon([(x + side * a, y + side * b) for a, b in corners], color="#6a9f58"))
        for cut in (0.25, 0.5, 0.75):
            self.axes.plot([x + cut * side] * 2, [y, y + side], color="white", linewidth=0.8)
            self.axes.plot([x, x + side], [y + cut * side] * 2, color="white", linewidth=0.8)
        self.axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=GREY, linewidth=1.2))

    def save(self, file: Path) -> None:
        """Writes the picture as PNG, the same bytes every time."""
        self.figure.savefig(file, metadata={"Software": None})


def draw_method() -> Canvas:
    """Returns the picture of HIVE with the parts that each stage trains, and LLaVA-style self-attention beside it."""
    canvas = Canvas(7.4)
    _draw_hive(canvas)
    canvas.axes.plot([7.15, 7.15], [0.2, 7.2], color="#c9ced4", linewidth=1)
    _draw_self_attention(canvas)
    return canvas


TOWER_X, PROJECTOR_X, CROSS_X, LANGUAGE_X = (0.95, 1.25), (2.65, 0.95), (4.1, 0.95), (5.65, 1.3)  # left side, width
FLOOR = 3.35  # under the first layers


def _draw_hive(canvas: Canvas) -> None:
    layers, decoder_layers = 12, 6
    states = select_hidden_states("uniform", 0.25, layers)
    depths = align_depths("aligned", len(states), decoder_layers)
    canvas.write(0.1, 7.15, "HIVE", LARGE, bold=True, ha="left")
    canvas.write(0.75, 7.13, "text reads a quarter of the tower's layers", NORMAL, GREY, ha="left")
    heights = _draw_tower(canvas, layers, states)
    joints = _draw_language_model(canvas, decoder_layers, depths)
    for height, joint in zip(heights, joints, strict=True):
        _draw_reading(canvas, height, joint)
    _draw_stages(canvas)


def _draw_tower(canvas: Canvas, layers: int, states: Sequence[int]) -> list[float]:
    """Draws the image and the tower's layers; returns the height of each layer whose output is read."""
    left, width = TOWER_X
    middle, pitch = left + width / 2, 3.0 / layers
    canvas.photograph(middle - 0.35, 2.5, 0.7)
    canvas.write(middle, 2.36, "image", SMALL, GREY)
    canvas.arrow((middle, 3.2), (middle, FLOOR))
    for layer in range(1, layers + 1):
        canvas.box(left, FLOOR + (layer - 1) * pitch, width, pitch - 0.04, IMAGE, 0.75 if layer in states else 0.15)
    heights = [FLOOR + (state - 0.58) * pitch for state in states]
    for state, height in zip(states, heights, strict=True):
        canvas.write(middle, height, f"layer {state}", SMALL, "white", bold=True)
    return heights


def _draw_language_model(canvas: Canvas, layers: int, depths: Sequence[int]) -> list[float]:
    """Draws caption, decoder layers and loss; returns the height of the gap below each aligned layer."""
    left, width = LANGUAGE_X
    middle, layer_height, bottom = left + width / 2, 0.27, FLOOR + 0.165
    canvas.tokens(left + 0.1, 2.78, [TEXT] * 4, 0.3)
    canvas.write(middle, 2.6, "BOS a green hill")
    canvas.write(middle, 2.36, "caption", SMALL, GREY)
    canvas.arrow((middle, 3.03), (middle, bottom))
    gaps = []
    for layer in range(layers):
        canvas.box(left, bottom, width, layer_height, TEXT, 0.2)
        canvas.tokens(left + 0.1, bottom + 0.03, [TEXT] * 4, 0.3)
        top = bottom + layer_height
        bottom = top + (0.34 if layer + 1 in depths else 0.12)
        if layer + 1 in depths:
            gaps.append((top + bottom) / 2)
        canvas.arrow((middle, top), (middle, bottom))
    canvas.box(left, bottom, width, 0.36, LOSS)
    canvas.write(middle, bottom + 0.18, "next-token loss")
    return gaps


def _draw_reading(canvas: Canvas, height: float, joint: float) -> None:
    """Draws projector and cross-attention between the tower layer at `height` and the text at `joint`."""
    stream = LANGUAGE_X[0] + LANGUAGE_X[1] / 2
    left, width = PROJECTOR_X
    canvas.arrow((sum(TOWER_X), height), (left, joint), colour=IMAGE)
    canvas.box(left, joint - 0.2, width, 0.4, PROJECTOR, 0.4)
    canvas.write(left + width / 2, joint, "projector")
    left, width = CROSS_X
    canvas.arrow((sum(PROJECTOR_X), joint), (left, joint), colour=PROJECTOR)
    canvas.write((sum(PROJECTOR_X) + left) / 2 - 0.03, joint + 0.13, "K, V")
    canvas.box(left, joint - 0.24, width, 0.48, CROSS, 0.3)
    canvas.write(left + width / 2, joint, "cross-\nattention")
    right = left + width
    canvas.arrow((stream, joint - 0.08), (right, joint - 0.08), colour=CROSS)
    canvas.write(right + 0.3, joint - 0.22, "Q")
    canvas.arrow((right, joint + 0.08), (stream - 0.07, joint + 0.08), colour=CROSS)
    canvas.plus(stream, joint + 0.08, CROSS)


def _draw_stages(canvas: Canvas) -> None:
    columns = (
        ("vision tower", TOWER_X, IMAGE, (3,)),
        ("projectors", PROJECTOR_X, PROJECTOR, (1, 2, 3)),
        ("cross-attention", CROSS_X, CROSS, (1, 2, 3)),
        ("language model", LANGUAGE_X, TEXT, (2, 3)),
    )
    for name, (left, width), colour, trained in columns:
        canvas.write(left + width / 2, 1.75, name, SMALL, bold=True)
        for stage in (1, 2, 3):
            trains = stage in trained
            bottom = 1.55 - 0.42 * stage
            canvas.box(left, bottom, width, 0.33, colour if trains else GREY, 0.75 if trains else 0.08)
            words, ink = ("trains", "white") if trains else ("frozen", GREY)
            canvas.write(left + width / 2, bottom + 0.16, words, SMALL, ink, bold=trains)
    for stage in (1, 2, 3):
        canvas.write(0.1, 1.71 - 0.42 * stage, f"stage {stage}", SMALL, bold=True, ha="left")


def _draw_self_attention(canvas: Canvas) -> None:
    left, width, text_tokens, image_tokens = 7.4, 2.4, 3, 9
    canvas.write(left - 0.05, 7.15, "LLaVA-style", LARGE, bold=True, ha="left")
    canvas.write(left - 0.05, 6.85, "self-attention, the baseline", NORMAL, GREY, ha="left")
    pitch, middle = 0.19, left + 0.85
    canvas.photograph(middle - 0.35, 2.5, 0.7)
    canvas.write(middle, 2.36, "image", SMALL, GREY)
    canvas.arrow((middle, 3.2), (middle, 3.35))
    canvas.box(middle - 0.6, 3.35, 1.2, 0.33, IMAGE, 0.75)
    canvas.write(middle, 3.515, "vision tower", SMALL, "white", bold=True)
    canvas.arrow((middle, 3.68), (middle, 3.83))
    canvas.box(middle - 0.6, 3.83, 1.2, 0.33, PROJECTOR, 0.4)
    canvas.write(middle, 3.995, "one projector")
    bottom = 4.31
    canvas.arrow((middle, 4.16), (middle, bottom))
    text_middle = left + 0.1 + pitch * (image_tokens + text_tokens / 2) - 0.03
    canvas.tokens(left + 0.1 + pitch * image_tokens, 2.82, [TEXT] * text_tokens, pitch)
    canvas.write(text_middle, 2.36, "caption", SMALL, GREY)
    canvas.arrow((text_middle, 3.03), (text_middle, bottom))
    for _ in range(5):
        canvas.box(left, bottom, width, 0.27, TEXT, 0.2)
        canvas.tokens(left + 0.1, bottom + 0.07, [IMAGE] * image_tokens + [TEXT] * text_tokens, pitch)
        canvas.arrow((left + width / 2, bottom + 0.27), (left + width / 2, bottom + 0.4))
        bottom += 0.4
    canvas.box(left + 0.55, bottom, 1.3, 0.36, LOSS)
    canvas.write(left + width / 2, bottom + 0.18, "next-token loss")
    for row, (name, colour) in enumerate((("a token of the image", IMAGE), ("a token of the text", TEXT))):
        canvas.tokens(left, 1.69 - 0.28 * row, [colour], 0.2)
        canvas.write(left + 0.25, 1.75 - 0.28 * row, name, ha="left")
    words = (
        "The image's tokens, 576 of them\nfor CLIP-L at 336 pixels, pass\n"
        "every layer of the language\nmodel. In HIVE only text does."
    )
    canvas.write(left - 0.05, 0.73, words, SMALL, ha="left")


def draw_batch() -> Canvas:
    """Returns the picture of a batch: from image files and captions to one number, with the tensors' shapes."""
    canvas = Canvas(8.6)
    for top, bottom, name in ((8.5, 4.7, "hive/data"), (4.55, 1.05, "hive/model")):
        canvas.axes.add_patch(Rectangle((0.1, bottom), WIDTH - 0.2, top - bottom, color=PALE))
        canvas.write(0.25, top - 0.2, name, NORMAL, GREY, bold=True, ha="left")
    image, text = 2.9, 7.1  # the middles of the two columns

    def step(x: float, y: float, name: str, shape: str, colour: str, width: float = 3.6) -> None:
        canvas.box(x - width / 2, y, width, 0.62, colour)
        canvas.write(x, y + 0.43, name, NORMAL)
        canvas.write(x, y + 0.18, shape, SMALL, GREY, family="monospace")

    canvas.photograph(image - 0.35, 7.65, 0.7)
    canvas.write(image + 0.5, 8.0, "image file", NORMAL, ha="left")
    canvas.write(text, 8.0, "caption", NORMAL)
    canvas.arrow((image, 7.65), (image, 7.37))
    canvas.arrow((text, 7.85), (text, 7.37))
    step(image, 6.75, "decoded, resized", "uint8 [3, H, W]", IMAGE)
    step(text, 6.75, "tokenized: BOS, caption, newline", "ids", TEXT)
    canvas.arrow((image, 6.75), (image, 6.45))
    canvas.arrow((text, 6.75), (text, 6.45))
    _draw_packed_batch(canvas, image, text)

    canvas.arrow((image, 4.85), (image, 4.2))
    canvas.arrow((text, 4.85), (text, 4.2))
    step(image, 3.58, "tower: selected hidden states", "[S, B, N, Dv]", IMAGE)
    canvas.arrow((image, 3.58), (image, 3.34))
    step(image, 2.72, "projectors", "[S, B, N, D]", PROJECTOR)
    canvas.arrow((image, 2.72), (image, 2.48))
    step(image, 1.86, "keys | values", "[S, B, N, 2*Hkv*hd]", CROSS)
    canvas.box(text - 1.8, 1.86, 3.6, 2.34, TEXT)
    canvas.write(text, 3.75, "language model over packed text", NORMAL)
    canvas.write(
        text,
        3.2,
        "In front of each aligned layer, text\nreads the keys and values of that\ndepth, of its own image alone.",
    )
    canvas.write(text, 2.3, "hidden states\n[T, D]", SMALL, GREY, family="monospace")
    canvas.arrow((image + 1.8, 2.17), (text - 1.8, 2.17), colour=CROSS)
    canvas.arrow((text, 1.86), (text, 1.68))
    canvas.box(text - 1.8, 1.2, 3.6, 0.48, LOSS)
    canvas.write(text, 1.44, "linear cross-entropy: one number", NORMAL)
    words = (
        "B images and texts, T tokens of all texts, S selected layers, N patches of an image, Dv and D widths of\n"
        "tower and language model, Hkv key/value heads of width hd. [...] is a tensor's shape."
    )
    canvas.write(0.25, 0.55, words, SMALL, GREY, ha="left")
    return canvas


def _draw_packed_batch(canvas: Canvas, image: float, text: float) -> None:
    """Draws the batch's box: images stacked, texts end to end with the offsets where each one starts."""
    canvas.box(0.9, 4.85, WIDTH - 1.8, 1.6, GREY, 0.0)
    canvas.write(image, 6.22, "packed batch", NORMAL, bold=True)
    for place in range(3):
        canvas.photograph(image - 1.05 + 0.75 * place, 5.3, 0.6)
    canvas.write(image, 5.08, "pixels [B, 3, H, W]", SMALL, GREY, family="monospace")
    canvas.write(text, 6.22, "tokens [T]", SMALL, GREY, family="monospace")
    lengths, pitch = (5, 3, 6), 0.22
    start = text - pitch * sum(lengths) / 2
    offset = 0
    for length, share in zip(lengths, (0.9, 0.5, 0.9), strict=True):
        for place in range(offset, offset + length):
            corner = (start + pitch * place, 5.85)
            canvas.axes.add_patch(Rectangle(corner, 0.8 * pitch, 0.8 * pitch, color=tint(TEXT, share)))
        offset += length
    for offset in (0, 5, 8, 14):
        x = start + pitch * offset - 0.02
        canvas.axes.plot([x, x], [5.68, 5.8], color=INK, linewidth=1.2)
        canvas.write(x, 5.54, str(offset))
    canvas.write(text, 5.2, "cu_seqlens [B + 1]: where each text\nstarts; nothing is padded", SMALL, GREY)


def main(argv: list[str] | None = None) -> None:
    """Writes both pictures."""
    parser = argparse.ArgumentParser(description="Draws the pictures of the method and of a batch.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs", help="folder to write to")
    folder = parser.parse_args(argv).out
    draw_method().save(folder / "method.png")
    draw_batch().save(folder / "batch.png")


if __name__ == "__main__":
    main()
