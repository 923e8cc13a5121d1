"""The comparison as pictures, each as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullLocator

from hive.cost.methods import METHODS
from hive.efficiency.compare import Row
from hive.efficiency.scaling import COMPARED, DENSITY, Point, exponent

COLOURS = dict(zip(COMPARED, ("tab:blue", "tab:red"), strict=True))
PARTS = {
    "tower": "tab:grey",
    "projector": "tab:cyan",
    "fusion": "tab:blue",
    "language": "tab:orange",
    "head": "tab:red",
}
BYTES = {
    "weights": "tab:grey",
    "gradients": "tab:olive",
    "optimiser": "tab:orange",
    "activations, passing": "tab:blue",
}


def draw(folder: Path, stem: str, rows: Sequence[Row], points: Sequence[Point]) -> list[Path]:
    """Writes all pictures to `folder`, names starting with `stem`; returns the PNG files."""
    files = []
    for recipe in dict.fromkeys(row.recipe for row in rows):
        for text in dict.fromkeys(row.text for row in rows):
            selected = [row for row in rows if (row.recipe, row.text) == (recipe, text)]
            if selected:
                files.append(_save(_draw_costs(selected), folder, f"{stem}-{recipe}-{text}"))
    if points:
        files.append(_save(_draw_scaling(points), folder, f"{stem}-scaling"))
    return files


def _save(figure: Figure, folder: Path, name: str) -> Path:
    figure.savefig(folder / f"{name}.svg")
    figure.savefig(folder / f"{name}.png", dpi=120)
    return folder / f"{name}.png"


def _draw_costs(rows: Sequence[Row]) -> Figure:
    """Returns FLOPs by part and memory by use as stacked bars, one row a method and stage; seconds where measured."""
    rows = sorted(rows, key=lambda row: row.stage)
    timed = any(row.measured for row in rows)
    figure = Figure(figsize=(14 if timed else 11, 0.3 * len(rows) + 2.2), layout="constrained")
    axes = figure.subplots(1, 3 if timed else 2, sharey=True)
    names = [f"stage {row.stage}: {METHODS[row.method]}" for row in rows]
    flops = {part: [row.parts[part].total / 1e9 if part in row.parts else 0.0 for row in rows] for part in PARTS}
    _draw_bars(axes[0], names, flops, PARTS, "GFLOP a sample, forward and backward")
    steps = [row.step for row in rows]
    held = {
        "weights": [step.parameters / 1e9 for step in steps],
        "gradients": [step.gradients / 1e9 for step in steps],
        "optimiser": [step.optimizer / 1e9 for step in steps],
    }
    rest = [step.peak / 1e9 - sum(held[use][i] for use in held) for i, step in enumerate(steps)]
    # where the peak is in the forward pass, no gradient exists yet, and the rest may be negative
    title = f"GB at the peak of a step on {rows[0].samples} samples"
    _draw_bars(axes[1], names, {**held, "activations, passing": [max(0.0, left) for left in rest]}, BYTES, title)
    if timed:
        seconds = [1000 * row.measured.median if row.measured else 0.0 for row in rows]
        _draw_bars(axes[2], names, {"measured": seconds}, {"measured": "tab:green"}, "milliseconds a step")
    axes[0].invert_yaxis()
    figure.suptitle(f"{rows[0].recipe}, {rows[0].text_tokens:.0f} text tokens")
    return figure


def _draw_bars(
    axes: Axes, names: Sequence[str], stacks: dict[str, list[float]], colours: dict[str, str], title: str
) -> None:
    left = [0.0] * len(names)
    places = range(len(names))
    for label, lengths in stacks.items():
        axes.barh(places, lengths, left=left, color=colours[label], label=label)
        left = [start + length for start, length in zip(left, lengths, strict=True)]
    axes.set_yticks(places, names, fontsize="small")
    axes.set_xlabel(title)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if len(stacks) > 1:
        axes.legend(fontsize="x-small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False)


def _draw_scaling(points: Sequence[Point]) -> Figure:
    """Returns curves of cost: one column for each axis, one row for each kind of cost."""
    axis_names = list(dict.fromkeys(point.axis for point in points))
    costs = [
        ("GFLOP a sample, LLM side", lambda point: point.language_side / 1e9),
        ("GFLOP a sample, everything", lambda point: (point.tower + point.language_side) / 1e9),
        ("peak memory, GB", lambda point: None if point.peak is None else point.peak / 1e9),
        ("ms a step", lambda point: None if point.seconds is None else 1000 * point.seconds),
    ]
    if all(point.seconds is None for point in points):
        costs.pop()
    figure = Figure(figsize=(3.1 * len(axis_names), 2.7 * len(costs)), layout="constrained")
    grid = figure.subplots(len(costs), len(axis_names), squeeze=False)
    for row, (title, cost) in zip(grid, costs, strict=True):
        for axes, axis in zip(row, axis_names, strict=True):
            for method, colour in COLOURS.items():
                selected = [
                    (point.at, value)
                    for point in points
                    if point.axis == axis and point.method == method and (value := cost(point)) is not None
                ]
                at, values = [place for place, _ in selected], [value for _, value in selected]
                grows = [(place, value) for place, value in selected if place > 0]
                label = f"x^{exponent(*zip(*grows, strict=True)):.2f}" if len(grows) > 1 else METHODS[method]
                axes.plot(at, values, "o-", color=colour, markersize=4, label=label)
            axes.set_yscale("log")
            if axis != DENSITY:
                axes.set_xscale("log")
                places = sorted({point.at for point in points if point.axis == axis})
                axes.set_xticks(places, [f"{place:,.0f}" for place in places], rotation=45, fontsize="small")
                axes.xaxis.set_minor_locator(NullLocator())
            for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                formatter(LogFormatter(minor_thresholds=(1, 0.5)))
            axes.tick_params(axis="y", which="both", labelsize="small")
            axes.grid(alpha=0.3, which="both")
            axes.legend(fontsize="x-small", framealpha=0.6)
            axes.set_xlabel(axis)
        row[0].set_ylabel(title)
    names = ", ".join(f"{METHODS[method]} {colour.removeprefix('tab:')}" for method, colour in COLOURS.items())
    figure.suptitle(f"Stage 2, one axis at a time, else the recipe with 8 samples of 77 text tokens: {names}")
    return figure
