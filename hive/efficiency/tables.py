"""The comparison as tables: the paper's numbers, the formula's, the counted and the measured ones side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hive.config import Config
from hive.cost import paper
from hive.cost.flops import Cost
from hive.cost.methods import METHODS, Method
from hive.efficiency.compare import CAPACITIES, Row
from hive.efficiency.frozen import Form
from hive.efficiency.measure import Measured
from hive.efficiency.scaling import Point, exponent
from hive.profiling import PARTS

BASELINE: Method = "self-attention"


@dataclass(frozen=True)
class Table:
    """A table of text: the first `words` columns are aligned left, the others, which are numbers, right."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[Mapping[str, str]]
    """Each by column; a cell that a row lacks stays empty."""
    words: int = 1
    """Columns that are words."""
    note: str = ""

    def __post_init__(self) -> None:
        unknown = {column for row in self.rows for column in row} - set(self.header)
        assert not unknown, f"no such columns: {unknown}"

    def text(self) -> str:
        """Returns the table as aligned text, for a terminal."""
        rows = [self.header, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if index < self.words else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([self.title, *lines, *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """Returns the table as Markdown."""
        rule = ["---" if index < self.words else "---:" for index in range(len(self.header))]
        lines = ["| " + " | ".join(row) + " |" for row in (self.header, rule, *self._cells())]
        return "\n".join([f"### {self.title}", "", *lines, *(["", self.note] if self.note else [])])

    def _cells(self) -> list[list[str]]:
        return [[row.get(column, "") for column in self.header] for row in self.rows]


def flops(rows: Sequence[Row], config: Config) -> Table:
    """Tables 6 and 7: each method's FLOPs and how they compare with self-attention in the same engine."""
    lines = []
    for row in rows:
        base = _find_row(rows, row, BASELINE)
        lines.append(
            {
                "GFLOP": METHODS[row.method],
                "stage": str(row.stage),
                "LLM side": _format_gflop(row.language_side),
                "counted": _format_gflop(row.counted.language_side),
                "ratio": _format_ratio(row.counted.language_side, base.counted.language_side if base else None),
                "everything": _format_gflop(row.everything),
                "all counted": _format_gflop(row.counted.everything),
                "all ratio": _format_ratio(row.counted.everything, base.counted.everything if base else None),
            }
        )
    header = tuple(lines[0])
    for method in dict.fromkeys(row.method for row in rows):
        method_rows, base_rows = ([row for row in rows if row.method == name] for name in (method, BASELINE))
        if len(method_rows) == len(base_rows) == 3:
            side, everything = _sum_stages(method_rows, config)
            base_side, base_everything = _sum_stages(base_rows, config)
            lines.append(
                {
                    "GFLOP": METHODS[method],
                    "stage": "all",
                    "counted": _format_gflop(side),
                    "ratio": _format_ratio(side, base_side),
                    "all counted": _format_gflop(everything),
                    "all ratio": _format_ratio(everything, base_everything),
                }
            )
    lines.append({"GFLOP": "the paper, Table 6", "ratio": "0.14"})
    hive_growth, full_growth = _complexities(config, round(rows[0].text_tokens))
    lines.append({"GFLOP": "the paper's formulas", "ratio": f"{hive_growth / full_growth:.3f}"})
    return Table(
        f"FLOPs of a training sample, forward and backward, {_describe_case(rows)} (Table 6)",
        header,
        lines,
        2,
        "LLM side is projector, fusion, language model and head; everything is these and the vision tower. Both are by "
        "the closed form; counted is what torch counts. A ratio is of counted numbers, to those of "
        f"{METHODS[BASELINE]}. All is the sum over the stages, weighted by their epochs. The paper does not say what "
        "its number covers. Texts of different lengths are counted with the padding that torch needs on a CPU.",
    )


def _sum_stages(rows: Sequence[Row], config: Config) -> tuple[float, float]:
    """Returns the counted FLOPs of a sample over all epochs of all stages: LLM side, everything."""
    epochs = [config.schedule(row.stage).epochs for row in rows]
    side = sum(times * row.counted.language_side for times, row in zip(epochs, rows, strict=True))
    return side, sum(times * row.counted.everything for times, row in zip(epochs, rows, strict=True))


def formulas(rows: Sequence[Row], config: Config) -> Table:
    """Table 7: the paper's orders of growth with numbers in them."""
    layers, selected, width, visual = _sizes(config)
    lines = []
    for text in dict.fromkeys(round(row.text_tokens) for row in rows):
        hive, full = _complexities(config, text)
        lines.append(
            {
                "text tokens": str(text),
                "self-attention": f"{full / 1e9:,.2f}",
                "HIVE": f"{hive / 1e9:,.3f}",
                "ratio": f"{hive / full:.4f}",
            }
        )
    return Table(
        "The paper's formulas (Equations 2 to 5, Table 7), giga multiply-adds without constants",
        tuple(lines[0]),
        lines,
        note=f"L {layers}, d {width}, N_v {visual}, S {selected}. These are orders of growth: they leave out "
        "projector, keys and values, vocabulary and the constants.",
    )


def _sizes(config: Config) -> tuple[int, int, int, int]:
    """Returns L, S, d and N_v of the paper's formulas."""
    visual = (config.vision.image_size // config.vision.patch_size) ** 2
    selected = round(config.vision.density * config.vision.layers)
    return config.language.layers, selected, config.language.hidden_size, visual


def _complexities(config: Config, text: int) -> tuple[float, float]:
    """Returns HIVE's and self-attention's complexity by the paper's formulas, for this many text tokens."""
    layers, selected, width, visual = _sizes(config)
    hive = paper.cross_attention_complexity(layers, selected, width, visual, text)
    return hive, paper.self_attention_complexity(layers, width, visual, text)


def by_part(rows: Sequence[Row]) -> Table:
    """FLOPs by part of the model."""
    names = [part for part in PARTS if any(part in row.parts for row in rows)]

    def cell(cost: Cost | None) -> str:
        return "-" if cost is None else f"{_format_gflop(cost.forward)} + {_format_gflop(cost.backward)}"

    lines = [_method_and_stage(row) | {name: cell(row.parts.get(name)) for name in names} for row in rows]
    note = "The projections of keys and values are counted in the fusion."
    return Table(
        f"GFLOP of a sample by part, forward + backward, {_describe_case(rows)}",
        ("method", "stage", *names),
        lines,
        2,
        note,
    )


def memory(rows: Sequence[Row]) -> Table:
    """Table 9: memory by use, simulated and measured."""
    lines = []
    for row in rows:
        base, step, measured = _find_row(rows, row, BASELINE), row.step, row.measured
        peak, reserved, process = (measured.peak, measured.reserved, measured.process) if measured else (None,) * 3
        lines.append(
            {
                "GB": METHODS[row.method],
                "stage": str(row.stage),
                "weights": _format_gb(step.parameters),
                "gradients": _format_gb(step.gradients),
                "optimiser": _format_gb(step.optimizer),
                "kept for backward": _format_gb(step.kept),
                "simulated peak": _format_gb(step.peak),
                "its ratio": _format_ratio(step.peak, base.step.peak if base else None),
                "allocated": _format_gb(peak),
                "reserved": _format_gb(reserved),
                "process": _format_gb(process),
                "ratio": _format_ratio(peak, base.measured.peak if base and base.measured else None),
            }
        )
    header = tuple(lines[0])
    lines.append({"GB": "the paper, Table 9: self-attention", "allocated": "54.2"})
    lines.append({"GB": "the paper, Table 9: HIVE", "allocated": "22.03", "ratio": "0.406"})
    lines.append({"GB": "the paper, Table 6: HIVE", "ratio": "0.8"})
    return Table(
        f"Memory of a step on {rows[0].samples} samples in one micro-batch, GB, {_describe_case(rows)} (Table 9)",
        header,
        lines,
        2,
        "Weights, gradients and moments are in fp32. What is kept for backward includes 16-bit copies of weights. The "
        "simulation uses torch's kernels. Allocated, reserved (by torch) and process (by NVML) are measured. The paper "
        "doesn't say which of them it means.",
    )


def time(rows: Sequence[Row], rate: float) -> Table:
    """Table 8: seconds of a step, and how much of the machine's speed it uses."""

    def flop_rate(row: Row, measured: Measured) -> float:
        return row.everything * row.samples / measured.median

    columns: dict[str, Callable[[Row, Measured], str]] = {
        "median ms": lambda _, measured: f"{1000 * measured.median:,.1f}",
        "spread": lambda _, measured: f"{100 * measured.spread:.0f} %",
        "images/s": lambda row, measured: f"{row.samples / measured.median:,.1f}",
        "minutes an epoch": lambda row, measured: f"{paper.CC3M_PAIRS * measured.median / row.samples / 60:,.0f}",
        "than self-attention": lambda row, measured: _format_speedup(measured, _find_row(rows, row, BASELINE)),
        "than transformers'": lambda row, measured: _format_speedup(measured, _find_row(rows, row, "transformers")),
        "TFLOP/s": lambda row, measured: f"{flop_rate(row, measured) / 1e12:,.3g}",
        "of the matrix rate": lambda row, measured: f"{100 * flop_rate(row, measured) / rate:.0f} %",
        "launches / busy": lambda _, measured: (
            "-" if measured.launches is None else f"{measured.launches:,} / {100 * (measured.busy or 0):.0f} %"
        ),
    }
    lines = [
        _method_and_stage(row)
        | {name: "-" if row.measured is None else cell(row, row.measured) for name, cell in columns.items()}
        for row in rows
    ]
    lines.append({"method": "the paper, Table 8: self-attention", "minutes an epoch": "240"})
    lines.append({"method": "the paper, Table 8: HIVE", "minutes an epoch": "70", "than self-attention": "3.43x"})
    return Table(
        f"Time of a step on {rows[0].samples} samples, {_describe_case(rows)} (Table 8)",
        ("method", "stage", *columns),
        lines,
        2,
        f"An epoch is {paper.CC3M_PAIRS:,} pairs. The matrix rate, {rate / 1e12:,.3g} TFLOP/s, was measured on this "
        "machine in the same run; recomputed scores count as work.",
    )


def _format_speedup(measured: Measured, other: Row | None) -> str:
    return f"{other.measured.median / measured.median:.2f}x" if other and other.measured else "-"


def shares(rows: Sequence[Row]) -> Table:
    """Shares of a step's time by part."""
    lines = []
    for row in rows:
        if row.measured is not None:
            total = sum(row.measured.parts.values())
            parts = row.measured.parts
            cells = {part: f"{100 * parts[part] / total:.1f} %" if part in parts else "-" for part in PARTS}
            lines.append(_method_and_stage(row) | cells)
    note = (
        "Keys and values count to the projector here, a joint softmax to the language model, clipping to the optimiser."
    )
    return Table(f"Share of a step's time by part, {_describe_case(rows)}", ("method", "stage", *PARTS), lines, 2, note)


def frozen(forms: Sequence[Form], samples: int) -> Table:
    """Time of the frozen tower's forms, and how they change features and loss."""
    lines = [
        {
            "form": form.name,
            "median ms": f"{form.milliseconds:,.1f}",
            "images/s": f"{form.images_per_second:,.1f}",
            "faster": f"{forms[0].milliseconds / form.milliseconds:.2f}x",
            "feature error": f"{100 * form.feature_error:.3f} %",
            "loss, nats a token": f"{form.loss_change:+.5f}",
        }
        for form in forms
    ]
    return Table(
        f"The frozen tower of stages 1 and 2, {samples} images",
        tuple(lines[0]),
        lines,
        1,
        "Against the same tower in fp32, fresh weights on noise: the error is the largest over the selected states.",
    )


def fits(biggest: Sequence[tuple[Method, int, list[int]]], tokens: int) -> Table:
    """The biggest micro-batch that fits, by method, stage and capacity."""
    columns = [f"{capacity} GiB" for capacity in CAPACITIES]
    lines = [
        {"method": METHODS[method], "stage": str(stage)} | dict(zip(columns, map(str, most), strict=True))
        for method, stage, most in biggest
    ]
    note = f"{tokens} text tokens, bf16 autocast, one micro-batch a step, 1 GiB left to CUDA's context. Simulated."
    return Table(
        "The biggest micro-batch that fits",
        ("method", "stage", *columns),
        lines,
        2,
        note,
    )


def growth(points: Sequence[Point]) -> Table:
    """Exponents that are fitted to the cost along each axis."""
    costs: dict[str, Callable[[Point], float | None]] = {
        "FLOPs": lambda point: point.language_side,
        "peak memory": lambda point: point.peak,
        "time": lambda point: point.seconds,
    }
    lines = []
    for axis in dict.fromkeys(point.axis for point in points):
        for method in dict.fromkeys(point.method for point in points):
            selected = [point for point in points if point.axis == axis and point.method == method and point.at > 0]
            cells = {name: _format_exponent(selected, cost) for name, cost in costs.items()}
            lines.append({"along": axis, "method": METHODS[method]} | cells)
    note = "p of cost ~ x^p, by least squares over the points of the plot; FLOPs a sample of the LLM side, stage 2."
    return Table("How cost grows", ("along", "method", *costs), lines, 2, note)


def _format_exponent(points: Sequence[Point], cost: Callable[[Point], float | None]) -> str:
    """Returns the exponent as text, "-" where a point lacks this cost."""
    values = [value for point in points if (value := cost(point)) is not None]
    return f"{exponent([point.at for point in points], values):.2f}" if len(values) == len(points) else "-"


def _method_and_stage(row: Row) -> dict[str, str]:
    return {"method": METHODS[row.method], "stage": str(row.stage)}


def _describe_case(rows: Sequence[Row]) -> str:
    row = rows[0]
    words = f"{row.text_tokens:.1f} on average, as in the data" if row.text == "data" else row.text
    return f"{row.recipe}, text tokens {words}"


def _find_row(rows: Sequence[Row], row: Row, method: Method) -> Row | None:
    """Returns the row of `method` in the stage of `row`, or None."""
    return next((other for other in rows if (other.method, other.stage) == (method, row.stage)), None)


def _format_gflop(count: float) -> str:
    return _format_number(count / 1e9)


def _format_gb(size: int | None) -> str:
    return "-" if size is None else _format_number(size / 1e9)


def _format_number(value: float) -> str:
    """Returns a number with three digits or more."""
    return f"{value:,.1f}" if value >= 10 or value == 0 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _format_ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.3f}" if value and base else "-"
