"""The comparison as tables: the paper's numbers, the formula's, the counted and the measured ones side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from hive.config import Config
from hive.cost import paper
from hive.cost.methods import METHODS, Method
from hive.efficiency.compare import CAPACITIES, Row
from hive.efficiency.frozen import Form
from hive.efficiency.scaling import Point, exponent
from hive.profiling import PARTS

BASELINE: Method = "self-attention"


@dataclass(frozen=True)
class Table:
    """Columns of words; all but the first few are numbers and stand to the right."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int = 1
    """Columns that are words."""
    note: str = ""

    def text(self) -> str:
        """For a terminal."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if index < self.words else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (self.header, *self.rows)
        ]
        return "\n".join([self.title, *lines, *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """For a document."""
        rule = ["---" if index < self.words else "---:" for index in range(len(self.header))]
        lines = ["| " + " | ".join(row) + " |" for row in (self.header, rule, *self.rows)]
        return "\n".join([f"### {self.title}", "", *lines, *(["", self.note] if self.note else [])])


def flops(rows: Sequence[Row], config: Config) -> Table:
    """Tables 6 and 7: each method's FLOPs and how they compare with self-attention in the same engine."""
    lines = []
    for row in rows:
        base = _baseline(rows, row)
        lines.append(
            (
                METHODS[row.method],
                str(row.stage),
                _gflop(row.language_side),
                _gflop(row.counted.language_side),
                _ratio(row.counted.language_side, base.counted.language_side if base else None),
                _gflop(row.everything),
                _gflop(row.counted.everything),
                _ratio(row.counted.everything, base.counted.everything if base else None),
            )
        )
    for method in dict.fromkeys(row.method for row in rows):
        own, base_rows = ([row for row in rows if row.method == name] for name in (method, BASELINE))
        if len(own) == len(base_rows) == 3:
            (side, everything), (base_side, base_everything) = _whole(own, config), _whole(base_rows, config)
            cells = ("", _gflop(side), _ratio(side, base_side), "", _gflop(everything))
            lines.append((METHODS[method], "all", *cells, _ratio(everything, base_everything)))
    lines.append(("the paper, Table 6", "", "", "", "0.14", "", "", ""))
    own_growth, full_growth = _complexities(config, round(rows[0].text_tokens))
    lines.append(("the paper's formulas", "", "", "", f"{own_growth / full_growth:.3f}", "", "", ""))
    return Table(
        f"FLOPs of a training sample, forward and backward, {_case(rows)} (Table 6)",
        ("GFLOP", "stage", "LLM side", "counted", "ratio", "everything", "all counted", "all ratio"),
        lines,
        2,
        "LLM side is projector, fusion, language model and head; everything is these and the vision tower. Both are by "
        "the closed form; counted is what torch counts. A ratio is of counted numbers, to those of "
        f"{METHODS[BASELINE]}. All is the sum over the stages, weighted by their epochs. The paper does not say what "
        "its number covers. Texts of different lengths are counted with the padding that torch needs on a CPU.",
    )


def _whole(rows: Sequence[Row], config: Config) -> tuple[float, float]:
    """Counted FLOPs a sample over all stages, each as often as a sample passes it: LLM side, everything."""
    epochs = [config.schedule(row.stage).epochs for row in rows]
    side = sum(times * row.counted.language_side for times, row in zip(epochs, rows, strict=True))
    return side, sum(times * row.counted.everything for times, row in zip(epochs, rows, strict=True))


def formulas(rows: Sequence[Row], config: Config) -> Table:
    """Table 7: the paper's orders of growth with numbers in them."""
    layers, selected, width, visual = _sizes(config)
    lines = []
    for text in dict.fromkeys(round(row.text_tokens) for row in rows):
        own, full = _complexities(config, text)
        lines.append((str(text), f"{full / 1e9:,.2f}", f"{own / 1e9:,.3f}", f"{own / full:.4f}"))
    return Table(
        "The paper's formulas (Equations 2 to 5, Table 7), giga multiply-adds without constants",
        ("text tokens", "self-attention", "HIVE", "ratio"),
        lines,
        note=f"L {layers}, d {width}, N_v {visual}, S {selected}. These are orders of growth: they leave out "
        "projector, keys and values, vocabulary and the constants.",
    )


def _sizes(config: Config) -> tuple[int, int, int, int]:
    """L, S, d and N_v of the paper's formulas."""
    visual = (config.vision.image_size // config.vision.patch_size) ** 2
    selected = round(config.vision.density * config.vision.layers)
    return config.language.layers, selected, config.language.hidden_size, visual


def _complexities(config: Config, text: int) -> tuple[float, float]:
    """HIVE's and self-attention's by the paper's formulas, for this many text tokens."""
    layers, selected, width, visual = _sizes(config)
    own = paper.cross_attention_complexity(layers, selected, width, visual, text)
    return own, paper.self_attention_complexity(layers, width, visual, text)


def by_part(rows: Sequence[Row]) -> Table:
    """Where the FLOPs go."""
    names = [part for part in PARTS if any(part in row.parts for row in rows)]
    lines = [
        (
            METHODS[row.method],
            str(row.stage),
            *(
                f"{_gflop(row.parts[name].forward)} + {_gflop(row.parts[name].backward)}" if name in row.parts else "-"
                for name in names
            ),
        )
        for row in rows
    ]
    note = "The projections of keys and values are counted in the fusion."
    return Table(
        f"GFLOP of a sample by part, forward + backward, {_case(rows)}", ("method", "stage", *names), lines, 2, note
    )


def memory(rows: Sequence[Row]) -> Table:
    """Table 9: bytes by what they are for."""
    lines = []
    for row in rows:
        base, step, measured = _baseline(rows, row), row.step, row.measured
        peak, reserved, process = (measured.peak, measured.reserved, measured.process) if measured else (None,) * 3
        lines.append(
            (
                METHODS[row.method],
                str(row.stage),
                *(_gb(size) for size in (step.parameters, step.gradients, step.optimizer, step.kept, step.peak)),
                _ratio(step.peak, base.step.peak if base else None),
                *(_gb(size) for size in (peak, reserved, process)),
                _ratio(peak, base.measured.peak if base and base.measured else None),
            )
        )
    blank = ("",) * 7
    lines.append(("the paper, Table 9: self-attention", *blank, "54.2", "", "", ""))
    lines.append(("the paper, Table 9: HIVE", *blank, "22.03", "", "", "0.406"))
    lines.append(("the paper, Table 6: HIVE", *blank, "", "", "", "0.8"))
    return Table(
        f"Memory of a step on {rows[0].samples} samples in one micro-batch, GB, {_case(rows)} (Table 9)",
        (
            *("GB", "stage", "weights", "gradients", "optimiser", "kept for backward", "simulated peak", "its ratio"),
            *("allocated", "reserved", "process", "ratio"),
        ),
        lines,
        2,
        "Weights, gradients and moments are in fp32. What is kept for backward includes 16-bit copies of weights. The "
        "simulation uses torch's kernels. Allocated, reserved (by torch) and process (by NVML) are measured. The paper "
        "doesn't say which of them it means.",
    )


def time(rows: Sequence[Row], rate: float) -> Table:
    """Table 8: seconds, and what they say of the machine."""
    lines = []
    for row in rows:
        measured, base = row.measured, _baseline(rows, row)
        if measured is None:
            lines.append((METHODS[row.method], str(row.stage), *["-"] * 9))
            continue
        usual = next(
            (other.measured for other in rows if (other.method, other.stage) == ("transformers", row.stage)), None
        )
        done = row.everything * row.samples / measured.median
        lines.append(
            (
                METHODS[row.method],
                str(row.stage),
                f"{1000 * measured.median:,.1f}",
                f"{100 * measured.spread:.0f} %",
                f"{row.samples / measured.median:,.1f}",
                f"{paper.CC3M_PAIRS * measured.median / row.samples / 60:,.0f}",
                f"{base.measured.median / measured.median:.2f}x" if base and base.measured else "-",
                f"{usual.median / measured.median:.2f}x" if usual else "-",
                f"{done / 1e12:,.3g}",
                f"{100 * done / rate:.0f} %",
                "-" if measured.launches is None else f"{measured.launches:,} / {100 * (measured.busy or 0):.0f} %",
            )
        )
    lines.append(("the paper, Table 8: self-attention", "", "", "", "", "240", *[""] * 5))
    lines.append(("the paper, Table 8: HIVE", "", "", "", "", "70", "3.43x", *[""] * 4))
    return Table(
        f"Time of a step on {rows[0].samples} samples, {_case(rows)} (Table 8)",
        (
            *("method", "stage", "median ms", "spread", "images/s", "minutes an epoch"),
            *("than self-attention", "than transformers'"),
            *("TFLOP/s", "of the matrix rate", "launches / busy"),
        ),
        lines,
        2,
        f"An epoch is {paper.CC3M_PAIRS:,} pairs. The matrix rate, {rate / 1e12:,.3g} TFLOP/s, was measured on this "
        "machine in the same run; recomputed scores count as work.",
    )


def shares(rows: Sequence[Row]) -> Table:
    """Where the time goes."""
    lines = []
    for row in rows:
        if row.measured is not None:
            total = sum(row.measured.parts.values())
            parts = row.measured.parts
            cells = (f"{100 * parts[part] / total:.1f} %" if part in parts else "-" for part in PARTS)
            lines.append((METHODS[row.method], str(row.stage), *cells))
    note = (
        "Keys and values count to the projector here, a joint softmax to the language model, clipping to the optimiser."
    )
    return Table(f"Share of a step's time by part, {_case(rows)}", ("method", "stage", *PARTS), lines, 2, note)


def frozen(forms: Sequence[Form], samples: int) -> Table:
    """What the forms of the frozen tower gain, and what they change."""
    lines = [
        (
            form.name,
            f"{form.milliseconds:,.1f}",
            f"{form.images_per_second:,.1f}",
            f"{forms[0].milliseconds / form.milliseconds:.2f}x",
            f"{100 * form.feature_error:.3f} %",
            f"{form.loss_change:+.5f}",
        )
        for form in forms
    ]
    return Table(
        f"The frozen tower of stages 1 and 2, {samples} images",
        ("form", "median ms", "images/s", "faster", "feature error", "loss, nats a token"),
        lines,
        1,
        "Against the same tower in fp32, fresh weights on noise: the error is the largest over the selected states.",
    )


def fits(found: Sequence[tuple[Method, int, list[int]]], tokens: int) -> Table:
    """The biggest micro-batches."""
    lines = [(METHODS[method], str(stage), *map(str, most)) for method, stage, most in found]
    note = f"{tokens} text tokens, bf16 autocast, one micro-batch a step, 1 GiB left to CUDA's context. Simulated."
    return Table(
        "The biggest micro-batch that fits",
        ("method", "stage", *(f"{capacity} GiB" for capacity in CAPACITIES)),
        lines,
        2,
        note,
    )


def growth(points: Sequence[Point]) -> Table:
    """The fitted exponents."""
    lines = []
    for axis in dict.fromkeys(point.axis for point in points):
        for method in dict.fromkeys(point.method for point in points):
            here = [point for point in points if point.axis == axis and point.method == method and point.at > 0]
            at = [point.at for point in here]
            cells = [f"{exponent(at, [point.language_side for point in here]):.2f}"]
            costs: tuple[list[float | None], ...] = ([point.peak for point in here], [point.seconds for point in here])
            for cost in costs:
                there = [value for value in cost if value is not None]
                cells.append(f"{exponent(at, there):.2f}" if len(there) == len(at) else "-")
            lines.append((axis, METHODS[method], *cells))
    note = "p of cost ~ x^p, by least squares over the points of the plot; FLOPs a sample of the LLM side, stage 2."
    return Table("How cost grows", ("along", "method", "FLOPs", "peak memory", "time"), lines, 2, note)


def _case(rows: Sequence[Row]) -> str:
    row = rows[0]
    words = f"{row.text_tokens:.1f} on average, as in the data" if row.text == "data" else row.text
    return f"{row.recipe}, text tokens {words}"


def _baseline(rows: Sequence[Row], row: Row) -> Row | None:
    return next((other for other in rows if other.method == BASELINE and other.stage == row.stage), None)


def _gflop(count: float) -> str:
    return _number(count / 1e9)


def _gb(size: int | None) -> str:
    return "-" if size is None else _number(size / 1e9)


def _number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.1f}" if value >= 10 or value == 0 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _ratio(own: float | None, base: float | None) -> str:
    return f"{own / base:.3f}" if own and base else "-"
