"""The results as tables: mean and deviation over the seeds, and HIVE against every other row with a paired t-test."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import ttest_rel

from hive.claim.evaluate import SPLITS, TARGETS, EvaluationSet
from hive.claim.plan import REFERENCE, Row

Results = Mapping[tuple[str, int], Mapping[str, Any]]
"""Each result, by row name and seed."""
LOSSES = {
    "right": "Caption loss with the right image, nats a token (less is better)",
    "gain": "What the right image is worth: loss with a wrong one minus loss with the right one, nats a token",
}
ROUNDING = 1e-12  # differences between seeds that are closer than this are equal but for rounding


@dataclass(frozen=True)
class Cell:
    """One row's numbers on one split."""

    by_seed: dict[int, float]
    mean: float
    deviation: float | None
    """Sample standard deviation over the seeds; None where there is one."""
    hive_minus: float | None
    """HIVE's number minus the row's, averaged over the seeds that both have; None for HIVE itself."""
    p: float | None
    """Two-sided p of a paired t-test over those seeds; None for fewer than two, or where all differences are equal."""
    pairs: int
    """Number of seeds that both have."""


@dataclass(frozen=True)
class Metric:
    """One table: a score of every row on every split."""

    title: str
    cells: dict[str, dict[str, Cell]]
    """By row and split."""
    majority: dict[str, float] | None
    """Score of always giving training's most common answer, by split; None for losses."""
    percent: bool


def metrics(rows: Sequence[Row], results: Results, data: EvaluationSet) -> list[Metric]:
    """Returns the tables, with the rows that have results."""
    tables = []
    for target in TARGETS:
        values = _collect_numbers(rows, results, ["probe", target, "accuracy"])
        majority = {split: data.majority(target, split) for split in SPLITS}
        classes = len(data.classes[target])
        tables.append(
            Metric(f"Accuracy of the {target} probe, {classes} classes, %", _compare_rows(values), majority, True)
        )
    common = {split: data.questions.most_common(split) for split in SPLITS}
    for kind, answers in data.questions.answers.items():
        values = _collect_numbers(rows, results, ["questions", "accuracy", kind])
        majority = {split: shares[kind] for split, shares in common.items() if kind in shares}
        title = f"Templated questions: {kind}, {len(answers):,} answers, % right"
        tables.append(Metric(title, _compare_rows(values), majority, True))
    for key, title in LOSSES.items():
        values = _collect_numbers(rows, results, ["loss", key])
        tables.append(Metric(title, _compare_rows(values), None, False))
    return tables


def _collect_numbers(
    rows: Sequence[Row], results: Results, path: Sequence[str]
) -> dict[str, dict[str, dict[int, float]]]:
    """Returns the results' numbers at this path by row, split and seed, without rows that have none."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        for split in SPLITS:
            for (name, seed), result in sorted(results.items()):
                number = _get_nested(result, (*path, split)) if name == row.name else None
                if number is not None:
                    values.setdefault(row.name, {}).setdefault(split, {})[seed] = number
    return values


def _get_nested(value: Any, path: Sequence[str]) -> Any:
    """Returns the value at the path in nested dictionaries, or None."""
    for key in path:
        value = None if value is None else value.get(key)
    return value


def _compare_rows(values: Mapping[str, Mapping[str, Mapping[int, float]]]) -> dict[str, dict[str, Cell]]:
    reference = values.get(REFERENCE, {})
    return {
        name: {
            split: cell(by_seed, None if name == REFERENCE else reference.get(split))
            for split, by_seed in splits.items()
        }
        for name, splits in values.items()
    }


def cell(by_seed: Mapping[int, float], hive: Mapping[int, float] | None) -> Cell:
    """Returns the statistics of one row on one split; `hive` has the reference's numbers by seed."""
    numbers = list(by_seed.values())
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    common = sorted(by_seed.keys() & (hive or {}).keys())
    difference = p = None
    if hive is not None and common:
        ours, theirs = [hive[seed] for seed in common], [by_seed[seed] for seed in common]
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        difference = statistics.fmean(differences)
        if max(differences) - min(differences) > ROUNDING:
            p = float(ttest_rel(ours, theirs).pvalue)
    return Cell(dict(by_seed), statistics.fmean(numbers), deviation, difference, p, len(common))


def markdown(title: str, rows: Sequence[Row], tables: Sequence[Metric], results: Results) -> str:
    """Returns all tables as Markdown."""
    lines = [f"# {title}", "", "| tower | differs from HIVE in | seeds | steps | images | training PFLOP |"]
    lines.append("|---|---|---|---:|---:|---:|")
    for row in rows:
        done = {seed: result for (name, seed), result in sorted(results.items()) if name == row.name}
        if done:
            first = next(iter(done.values()))
            lines.append(
                f"| {row.name} | {row.words} | {', '.join(map(str, done))} | {sum(first['steps']):,} | "
                f"{first['images']:,} | {first['flops'] / 1e15:.3g} |"
            )
    for metric in tables:
        if metric.cells:
            lines += ["", f"## {metric.title}", "", *_format_table(metric)]
    return "\n".join([*lines, "", *_explain(tables)]) + "\n"


def _format_table(metric: Metric) -> list[str]:
    names = [split.replace("_", " ") for split in SPLITS]
    heads = [head for name in names for head in (name, "HIVE minus it", "p")]
    lines = ["| tower | " + " | ".join(heads) + " |", "|---" + "|---:" * len(heads) + "|"]
    for name, splits in metric.cells.items():
        cells = [text for split in SPLITS for text in _format_cell(splits.get(split), metric.percent)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if metric.majority is not None:
        shares = [metric.majority.get(split) for split in SPLITS]
        cells = [text for share in shares for text in ("–" if share is None else f"{100 * share:.1f}", "", "")]
        lines.append("| most common answer | " + " | ".join(cells) + " |")
    return lines


def _format_cell(cell: Cell | None, percent: bool) -> tuple[str, str, str]:
    if cell is None:
        return "–", "", ""

    def format_number(number: float, sign: str = "") -> str:
        return f"{100 * number:{sign}.1f}" if percent else f"{number:{sign}.3f}"

    mean = format_number(cell.mean) + ("" if cell.deviation is None else f" ± {format_number(cell.deviation)}")
    if cell.hive_minus is None:
        return mean, "", ""
    return mean, format_number(cell.hive_minus, "+"), "–" if cell.p is None else f"{cell.p:.3f}"


def _explain(tables: Sequence[Metric]) -> list[str]:
    cells = [c for metric in tables for splits in metric.cells.values() for c in splits.values()]
    tested = sorted({c.pairs for c in cells if c.p is not None})
    lines = ["A score is the mean ± the sample deviation over the seeds."]
    if any(len(splits) < len(SPLITS) for metric in tables for splits in metric.cells.values()):
        lines.append("A score of – means that the split has no such question: training has none of its answers.")
    if tested:
        lines.append(
            f"p is of a two-sided paired t-test of HIVE against the row, over the {' or '.join(map(str, tested))} "
            "seeds that both have.\nIt is not corrected for the number of comparisons."
        )
    return lines


def to_json(title: str, tables: Sequence[Metric], results: Results) -> dict[str, Any]:
    """Returns everything that the tables show, unrounded, and every run's record."""
    return {
        "title": title,
        "metrics": [asdict(metric) for metric in tables],
        "results": [dict(result) for _, result in sorted(results.items())],
    }
