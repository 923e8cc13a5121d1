"""The report's page: a section for each topic, with the runs side by side."""

import base64
import html
import statistics
import struct
from collections.abc import Sequence
from datetime import UTC, datetime

from hive import __version__
from hive.config_json import flatten
from hive.report.chart import COLOURS, Line, chart
from hive.report.html import Html, element, join, table
from hive.report.measured import measured
from hive.report.read import CHECK, DEPTH, Recorded
from hive.report.style import STYLE
from hive.train.loss_curve import smoothed

SHOWN_BAD = 100  # lines of a ledger
# The page may use the styles and images that it contains, and may load nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SPEEDS = (
    ("images/s", "images_per_second", 1.0, ",.0f"),
    ("tokens/s", "tokens_per_second", 1.0, ",.0f"),
    ("TFLOP/s", "tflops", 1.0, ".3g"),
    ("waiting for data, %", "data_wait", 100.0, ".1f"),
)


def page(runs: Sequence[Recorded]) -> str:
    """Returns the whole HTML file."""
    sections = {
        "Loss": _losses(runs),
        "Held-out pairs": _held_out(runs),
        "Injection": _injection(runs),
        "Efficiency": _efficiency(runs),
        "Maps": _maps(runs),
        "Bad samples": _ledgers(runs),
        "Configuration": _configuration(runs),
    }
    title = f"HIVE: {', '.join(run.label for run in runs)}"
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = element(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        element("title", title),
        element("style", Html(STYLE)),
    )
    body = element(
        "body",
        element("h1", "HIVE report"),
        element("nav", *(element("a", name, href=f"#{_anchor(name)}") for name in sections)),
        element("h2", "Runs"),
        element("div", *(_card(run, number) for number, run in enumerate(runs)), class_="cards"),
        *(element("section", element("h2", name), content, id=_anchor(name)) for name, content in sections.items()),
        element("footer", f"Made by python -m hive.report, HIVE {__version__}, {made}."),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _set_colour(number: int) -> str:
    return f"--run:var(--run-{number % COLOURS})"


def _card(run: Recorded, number: int) -> Html:
    config = run.config
    facts = {
        "method": config.trains,
        "recipe": config.recipe,
        "seed": str(config.seed),
        "device, kernel": f"{config.device}, {config.kernel}",
        "last step": f"{run.train[-1]['step']:,} (stage {run.train[-1]['stage']})" if run.train else "none yet",
    }
    if run.train:
        facts["training loss"] = f"{smoothed([record['loss'] for record in run.train[-80:]])[-1]:.3f}"
        facts["images/s, last stage"] = _format_median(run, run.train[-1]["stage"], "images_per_second", 1.0, ",.0f")
    if run.bad:
        facts["bad samples"] = f"{len(run.bad):,}"
    listed = join(join([element("dt", name), element("dd", value)]) for name, value in facts.items())
    return element(
        "div",
        element("h3", run.label),
        element("p", str(run.folder), class_="soft"),
        element("dl", listed),
        class_="card",
        style=_set_colour(number),
    )


def _legend(runs: Sequence[Recorded]) -> Html:
    return element(
        "div",
        *(element("span", element("i"), run.label, style=_set_colour(n)) for n, run in enumerate(runs)),
        class_="legend",
    )


def _losses(runs: Sequence[Recorded]) -> Html:
    if not any(run.train for run in runs):
        return element("p", "No step has been recorded yet.")
    lines: list[Line] = []
    marks: dict[float, str] = {}
    for number, run in enumerate(runs):
        for stage in sorted({record["stage"] for record in run.train}):
            records = [record for record in run.train if record["stage"] == stage]
            steps, losses = [record["step"] for record in records], [record["loss"] for record in records]
            marks.setdefault(steps[0], str(stage))
            name = f"{run.label}, stage {stage}"
            lines += [Line(name, number, steps, losses, "faint"), Line(name, number, steps, smoothed(losses))]
    return join(
        [
            element(
                "div",
                chart(lines, "step", "training loss, nats a token", sorted(marks.items()), "stage"),
                class_="wide",
            ),
            _legend(runs),
            element(
                "p",
                "Strong lines are centred means over a fortieth of a stage; faint lines are single steps.",
                class_="soft",
            ),
        ]
    )


def _held_out(runs: Sequence[Recorded]) -> Html:
    splits = list(dict.fromkeys(split for run in runs for split in run.held_out))
    if not splits:
        return element("p", "No held-out loss has been recorded yet.")
    rows = []
    for split in splits:
        for run in runs:
            if split in run.held_out:
                last = run.held_out[split][-1]
                difference = f"{last['wrong'] - last['right']:.3f}"
                numbers = (f"{last['step']:,}", f"{last['pairs']:,}", f"{last['right']:.3f}", f"{last['wrong']:.3f}")
                rows.append((_add_spaces(split), run.label, *numbers, difference))
    figures = []
    for split in splits:
        lines = []
        for number, run in enumerate(runs):
            records = run.held_out.get(split, [])
            for name, key, kind in (("right", "right", "line"), ("wrong", "wrong", "dashed")):
                steps, losses = [record["step"] for record in records], [record[key] for record in records]
                if records:
                    lines.append(Line(f"{run.label}, {name} image", number, steps, losses, kind, dots=True))
        heading = element("h3", _add_spaces(split))
        figures.append(element("div", heading, chart(lines, "step", "loss, nats a token", width=420)))
    return join(
        [
            table(("split", "run", "step", "pairs", "right image", "wrong image", "difference"), rows),
            element(
                "p",
                "Mean loss in nats a token; the difference is how much lower the loss is with the right image than "
                "with a wrong one. Below: right image solid, wrong image dashed.",
                class_="soft",
            ),
            element("div", *figures, class_="cards"),
            _legend(runs),
        ]
    )


def _injection(runs: Sequence[Recorded]) -> Html:
    if not any(run.injection for run in runs):
        return element("p", "No stage has been checked for what its images add.")
    names = (*CHECK, *DEPTH)
    rows = [(run.label, *(_format_number(row[name]) for name in names)) for run in runs for row in run.injection]
    return join(
        [
            table(("run", *map(_add_spaces, names)), rows),
            element(
                "p",
                "Before the first step of a stage: losses in nats a token; entropy of the attention to the image as a "
                "share of that of uniform attention; spread of its logits; update of the stream against the stream.",
                class_="soft",
            ),
            *(element("p", f"{run.label}, {warning}") for run in runs for warning in run.warnings),
        ]
    )


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _efficiency(runs: Sequence[Recorded]) -> Html:
    parts = []
    stages = sorted({record["stage"] for run in runs for record in run.train})
    if stages:
        rows = [
            (f"stage {stage}: {name}", *(_format_median(run, stage, key, factor, form) for run in runs))
            for stage in stages
            for name, key, factor, form in SPEEDS
        ]
        rows.append(("peak memory, GB", *(_format_peak(run) for run in runs)))
        parts.append(table(("", *(run.label for run in runs)), rows))
        parts.append(
            element("p", "Medians over the steps of a stage; memory is the peak of the whole run.", class_="soft")
        )
    else:
        parts.append(element("p", "No step has been recorded yet."))
    for run in runs:
        if run.efficiency:
            title = element("summary", f"{run.label}: efficiency.json")
            parts.append(element("details", title, measured(run.efficiency)))
    return join(parts)


def _format_median(run: Recorded, stage: int, key: str, factor: float, form: str) -> str:
    values = [factor * record[key] for record in run.train if record["stage"] == stage]
    return format(statistics.median(values), form) if values else "–"


def _format_peak(run: Recorded) -> str:
    return f"{max(record['peak_memory_gb'] for record in run.train):.2f}" if run.train else "–"


def _maps(runs: Sequence[Recorded]) -> Html:
    names = list(dict.fromkeys(name for run in runs for name in run.maps))
    if not names:
        return element(
            "p", "No maps have been drawn yet. A run draws some at its end; python -m hive.maps draws others."
        )
    if len(runs) == 1:
        wide = [name for name in names if _is_wide(runs[0].maps[name])]
        narrow = [name for name in names if name not in wide]
        return join(_figures(chosen, [(name, runs[0]) for name in chosen]) for chosen in (narrow, wide) if chosen)
    rows = ((name, [(name, run) for run in runs if name in run.maps]) for name in names)
    return join(
        join([element("h3", _add_spaces(name)), _figures([run.label for _, run in row], row)]) for name, row in rows
    )


def _figures(captions: Sequence[str], figures: Sequence[tuple[str, Recorded]]) -> Html:
    """Returns maps, given by name and run, side by side; or below each other where one would be too small to read."""
    shown = []
    for caption, (name, run) in zip(captions, figures, strict=True):
        data = base64.b64encode(run.maps[name]).decode()
        image = Html(f'<img src="data:image/png;base64,{data}" alt="{html.escape(_add_spaces(name))}">')
        shown.append(element("figure", image, element("figcaption", caption)))
    wide = any(_is_wide(run.maps[name]) for name, run in figures)
    return element("div", *shown, class_="rows" if wide else "columns")


def _is_wide(png: bytes) -> bool:
    """Whether a PNG would be too small to read in half the page's width."""
    width, height = struct.unpack(">II", png[16:24])
    return width > 2 * height


def _add_spaces(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")


def _ledgers(runs: Sequence[Recorded]) -> Html:
    parts = []
    for run in runs:
        if not run.bad:
            parts.append(element("p", f"{run.label}: every record and image could be used."))
            continue
        rows = [(str(line.get("file", "")), str(line.get("reason", ""))) for line in run.bad[:SHOWN_BAD]]
        more = f", the first {SHOWN_BAD} of them below" if len(run.bad) > SHOWN_BAD else ""
        parts.append(element("p", f"{run.label}: {len(run.bad):,} records and images could not be used{more}."))
        parts.append(element("div", table(("file", "reason"), rows), class_="text"))
    return join(parts)


def _configuration(runs: Sequence[Recorded]) -> Html:
    flat = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for values in flat for name in values)
    rows = [(name, *(_format_value(values[name]) if name in values else "–" for values in flat)) for name in names]
    different = [row for row in rows if len(set(row[1:])) > 1]
    same = [row for row in rows if len(set(row[1:])) == 1]
    head = ("field", *(run.label for run in runs))
    if len(runs) == 1:
        return element("div", table(head, rows), class_="text")
    return element(
        "div",
        element("p", "What differs:") if different else element("p", "The runs have the same configuration."),
        *([table(head, different, range(len(different)))] if different else []),
        element("details", element("summary", f"What is the same in all runs ({len(same)} fields)"), table(head, same)),
        class_="text",
    )


def _format_value(value: object) -> str:
    return (
        ", ".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
