"""Line charts as inline SVG, in the page's colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hive.report.html import Html, element

WIDTH, HEIGHT = 1160, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 28, 42
COLOURS = 6  # that the style sheet names, as --run-0 and so on
MOST_POINTS = 800  # of a line


@dataclass(frozen=True)
class Line:
    """A line: its name, colour number, points with rising x, and style."""

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    kind: str = "line"
    """A class of the style sheet: line, faint, dashed."""
    dots: bool = False


def chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    marks: Sequence[tuple[float, str]] = (),
    mark_label: str = "",
    width: int = WIDTH,
) -> Html:
    """Returns an SVG of lines over common axes, which need a point; `marks` are vertical lines with short names."""
    xs = [value for line in lines for value in line.x]
    ys = [value for line in lines for value in line.y]
    assert xs
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1)
    ticks_y = _ticks(min(ys), max(ys))
    low_y, high_y = min(ticks_y[0], min(ys)), max(ticks_y[-1], max(ys))
    right, floor = width - RIGHT, HEIGHT - BOTTOM

    def place_x(value: float) -> float:
        return LEFT + (value - low_x) / (high_x - low_x) * (right - LEFT)

    def place_y(value: float) -> float:
        return floor - (value - low_y) / (high_y - low_y) * (floor - TOP)

    parts = []
    for value in ticks_y:
        parts.append(_segment(LEFT, place_y(value), right, place_y(value), "grid"))
        parts.append(_text(LEFT - 7, place_y(value) + 4, f"{value:g}", "end"))
    for value in _ticks(low_x, high_x):
        if low_x <= value <= high_x:
            parts.append(_text(place_x(value), floor + 17, f"{value:,g}", "middle"))
    if marks:
        parts.append(_text(LEFT - 12, TOP - 10, mark_label, "end"))
    for value, name in marks:
        parts.append(_segment(place_x(value), TOP, place_x(value), floor, "mark"))
        parts.append(_text(place_x(value), TOP - 10, name, "middle"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 5, x_label, "middle"))
    parts.append(_text(0, 0, y_label, "middle", transform=f"translate(13 {(TOP + floor) / 2:.0f}) rotate(-90)"))
    parts += [_draw_line(line, place_x, place_y) for line in lines]
    return element("svg", *parts, viewBox=f"0 0 {width} {HEIGHT}", role="img", aria_label=f"{y_label} by {x_label}")


def _draw_line(line: Line, place_x: object, place_y: object) -> Html:
    assert callable(place_x)
    assert callable(place_y)
    stride = -(-len(line.x) // MOST_POINTS)
    kept = sorted({*range(0, len(line.x), stride), len(line.x) - 1})
    points = [(place_x(line.x[i]), place_y(line.y[i])) for i in kept]
    colour = f"var(--run-{line.colour % COLOURS})"
    path = element(
        "polyline",
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        class_=line.kind,
        style=f"stroke:{colour}",
    )
    dots = [element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, style=f"fill:{colour}") for x, y in points]
    return element("g", element("title", line.name), path, *(dots if line.dots else ()))


def _segment(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind)


def _text(x: float, y: float, text: str, anchor: str, **attributes: str) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **attributes)


def _ticks(low: float, high: float) -> list[float]:
    """Returns about five round numbers that cover low to high."""
    rough = max(high - low, 1e-9 * max(1.0, abs(high))) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]
