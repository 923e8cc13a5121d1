"""The tables as one picture: a point for each seed, and a line at each row's mean."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hive.claim.evaluate import SPLITS
from hive.claim.plan import REFERENCE
from hive.claim.table import Metric

COLOURS = dict(zip(SPLITS, ("tab:green", "tab:blue", "tab:orange"), strict=True))
COLUMNS = 2


def picture(title: str, tables: Sequence[Metric]) -> bytes:
    """Returns a PNG with a panel for each metric: rows side by side, a colour for each split.

    A dashed line is the score of the most common answer.
    """
    metrics = [metric for metric in tables if metric.cells]
    rows = -(-len(metrics) // COLUMNS)
    figure = Figure(figsize=(6.5 * COLUMNS, 3.2 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, metric in zip(panels, metrics, strict=False):
        _draw_panel(axes, metric)
    for axes in panels[len(metrics) :]:
        axes.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    figure.suptitle(title)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _draw_panel(axes: Axes, metric: Metric) -> None:
    factor = 100 if metric.percent else 1
    for number, split in enumerate(SPLITS):
        shift, colour = 0.25 * (number - (len(SPLITS) - 1) / 2), COLOURS[split]
        points = [(place + shift, cells[split]) for place, cells in enumerate(metric.cells.values()) if split in cells]
        places, means = [place for place, _ in points], [factor * cell.mean for _, cell in points]
        axes.plot(places, means, "_", markersize=24, markeredgewidth=2, label=split.replace("_", " "), color=colour)
        for place, cell in points:
            values = [factor * value for value in cell.by_seed.values()]
            axes.plot([place] * len(values), values, "o", markersize=4, alpha=0.6, color=colour)
        if metric.majority is not None and split in metric.majority:
            axes.axhline(factor * metric.majority[split], linestyle="--", linewidth=0.8, color=colour)
    names = [name.replace("-equal-flops", ",\nequal FLOPs") for name in metric.cells]
    axes.set_xticks(range(len(names)), names, fontsize="small")
    axes.set_xlim(-0.6, len(names) - 0.4)
    for label, name in zip(axes.get_xticklabels(), metric.cells, strict=True):
        label.set_fontweight("bold" if name == REFERENCE else "normal")
    axes.set_title(metric.title.replace(": loss with", ":\nloss with"), fontsize="small")
    axes.grid(axis="y", alpha=0.3)
