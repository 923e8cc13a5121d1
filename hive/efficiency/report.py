"""Runs the whole comparison, prints it, and writes it as JSON, Markdown and pictures."""

import dataclasses
import json
import os
import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hive.config import Config
from hive.cost import paper
from hive.cost.cases import texts
from hive.cost.methods import METHODS, Method
from hive.data.loader import end_with_parent
from hive.efficiency import tables
from hive.efficiency.compare import Row, count, fitting, measure_rows
from hive.efficiency.frozen import Form, compare_forms
from hive.efficiency.machine import is_out_of_memory, machine, matrix_rate
from hive.efficiency.options import Options
from hive.efficiency.plots import draw
from hive.efficiency.scaling import Point, places, points, time_point
from hive.efficiency.tables import Table
from hive.errors import UserError
from hive.files import make_folder, replace_text
from hive.model.kernel import check_kernel_name, kernel_for

FITTED: tuple[Method, ...] = ("hive", "self-attention", "transformers")
FITTED_TOKENS = 77
STEM = "efficiency"


@dataclasses.dataclass
class Result:
    """All results of one comparison."""

    command: str
    machine: dict[str, Any]
    device: str
    rate: float | None
    """FLOP/s of a large matrix product on the device."""
    rows: list[Row] = dataclasses.field(default_factory=list)
    fits: dict[str, list[tuple[Method, int, list[int]]]] = dataclasses.field(default_factory=dict)
    """By recipe: method, stage, and the biggest micro-batch for each capacity."""
    forms: dict[str, list[Form]] = dataclasses.field(default_factory=dict)
    """By recipe, the forms of the frozen tower."""
    points: list[Point] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    """What is missing, and why."""

    def note(self, remark: str) -> None:
        """Adds a remark, once."""
        if remark and remark not in self.remarks:
            self.remarks.append(remark)


def produce(options: Options, arguments: Sequence[str]) -> None:
    """Runs the comparison, prints each table as soon as it is complete, and writes the files after every recipe.

    The JSON is also written after every measured row, so that a run that is cut off keeps them.
    """
    options.check()
    stages, names = options.stage_numbers(), options.text_names()
    device = _pick_device(options.device)
    configs = options.configs(device.type)
    console = Console(soft_wrap=True)
    check_kernel_name(options.kernel)
    backend = "torch" if device.type == "meta" else kernel_for(options.kernel, device)
    make_folder(options.out)
    result = Result(
        shlex.join(["python", "-m", "hive.efficiency", *arguments]),
        machine(),
        device.type,
        None if device.type == "meta" else matrix_rate(device),
    )
    _say(console, _introduce(device, configs))
    with _open_pool() as pool:
        for config in configs:
            for name in names:
                _compare(console, pool, options, config, name, stages, device, backend, result)
                _write_files(options.out, configs, result)
            if device.type != "meta" and set(stages) & {1, 2}:
                _compare_frozen(console, config, options, device, backend, result)
            if options.fit and device.type != "cpu":
                _find_fits(console, pool, config, stages, result)
            _write_files(options.out, configs, result)
        if options.scaling:
            _compare_scaling(console, pool, configs[len(configs) // 2], device, backend, result)
    for remark in result.remarks:
        _say(console, remark)
    if not result.rows:
        raise UserError(f"Nothing was compared: none of --text-tokens {options.text_tokens} can be used here.")
    files = _write_files(options.out, configs, result)
    _say(console, f"\nwritten to {files}")


@contextmanager
def _open_pool() -> Iterator[Executor]:
    """Yields a pool of processes for what needs no device; each takes about 1 GB. Ctrl-C cancels what has not begun."""
    pool = ProcessPoolExecutor(
        min(8, os.cpu_count() or 1), mp_context=get_context("spawn"), initializer=end_with_parent
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _compare(
    console: Console,
    pool: Executor,
    options: Options,
    config: Config,
    text: str,
    stages: tuple[int, ...],
    device: torch.device,
    backend: str,
    result: Result,
) -> None:
    try:
        captions = texts(text, config, options.samples)
    except UserError as error:
        result.remarks.append(f"{config.recipe}, text tokens {text}: left out. {error}")
        return
    precision = torch.float32 if device.type == "cpu" else torch.bfloat16
    rows: list[Row] = []
    with _progress_bar(console) as progress:
        task = progress.add_task(f"{config.recipe}, text tokens {text}: counting", total=len(METHODS))
        for counted in [pool.submit(count, config, method, stages, captions, precision) for method in METHODS]:
            rows += counted.result()
            progress.advance(task)
        result.rows += rows
        if device.type != "meta":
            progress.reset(task, total=len(rows), description=f"{config.recipe}, text tokens {text}: measuring")
            for method in METHODS:
                of_method = [row for row in rows if row.method == method]
                for row in measure_rows(config, of_method, captions, device, backend, options.runs):
                    progress.advance(task)
                    result.note(f"{METHODS[method]}, stage {row.stage}: {row.remark}" if row.remark else "")
                    result.note(row.measured.remark if row.measured else "")
                    _write_json(options.out, result)
    for table in _make_tables(rows, config, result.rate):
        _say(console, f"\n{table.text()}")


def _make_tables(rows: Sequence[Row], config: Config, rate: float | None) -> list[Table]:
    shown = [tables.flops(rows, config), tables.by_part(rows), tables.memory(rows)]
    return shown if rate is None else [*shown, tables.time(rows, rate), tables.shares(rows)]


def _compare_frozen(
    console: Console, config: Config, options: Options, device: torch.device, backend: str, result: Result
) -> None:
    try:
        forms, missing = compare_forms(config, options.samples, device, backend, options.runs)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        result.note(f"{config.recipe}: the frozen tower's forms do not fit on {options.samples} samples")
        return
    result.forms[config.recipe] = forms
    for remark in missing:
        result.note(remark)
    _say(console, f"\n{config.recipe}\n{tables.frozen(forms, options.samples).text()}")


def _find_fits(console: Console, pool: Executor, config: Config, stages: tuple[int, ...], result: Result) -> None:
    cases = [(method, stage) for method in FITTED for stage in stages]
    fits: list[tuple[Method, int, list[int]]] = []
    with _progress_bar(console) as progress:
        task = progress.add_task(f"{config.recipe}, what fits", total=len(cases))
        answers = [pool.submit(fitting, config, method, stage, FITTED_TOKENS) for method, stage in cases]
        for (method, stage), answer in zip(cases, answers, strict=True):
            fits.append((method, stage, answer.result()))
            progress.advance(task)
    result.fits[config.recipe] = fits
    _say(console, f"\n{config.recipe}\n{tables.fits(fits, FITTED_TOKENS).text()}")


def _compare_scaling(
    console: Console, pool: Executor, config: Config, device: torch.device, backend: str, result: Result
) -> None:
    where = places(config, small=device.type == "cpu")
    with _progress_bar(console) as progress:
        task = progress.add_task(f"{config.recipe}, scaling", total=len(where))
        answers = [pool.submit(points, place, device.type) for place in where]
        counted = []
        for answer in answers:
            counted.append(answer.result())
            progress.advance(task)
        if device.type != "meta":  # times are measured when nothing else runs
            progress.reset(task, description=f"{config.recipe}, scaling: measuring")
        for place, costs in zip(where, counted, strict=True):
            if device.type != "meta":
                costs = [time_point(place, point, device, backend) for point in costs]
                progress.advance(task)
            result.points += costs
            for point in costs:
                if device.type != "meta" and point.seconds is None and point.peak is not None:
                    result.note(f"{METHODS[point.method]} does not fit at {place.axis} {place.at:g}: no time there")
    _say(console, f"\n{config.recipe}\n{tables.growth(result.points).text()}")


def _write_files(folder: Path, configs: Sequence[Config], result: Result) -> str:
    """Writes JSON, Markdown and pictures; returns their names in words."""
    _write_json(folder, result)
    pictures = draw(folder, STEM, result.rows, result.points)
    replace_text(folder / f"{STEM}.md", _format_page(configs, result, pictures))
    return f"{folder / STEM}.md, {STEM}.json and {len(pictures)} pictures beside them"


def _write_json(folder: Path, result: Result) -> None:
    replace_text(folder / f"{STEM}.json", json.dumps(dataclasses.asdict(result), indent=1) + "\n")


def _format_page(configs: Sequence[Config], result: Result, pictures: Sequence[Path]) -> str:
    facts = result.machine
    where = facts["gpu"] or facts["cpu"]
    parts = [
        "# What HIVE costs beside self-attention",
        f"`{result.command}` wrote this page on {facts['date'][:10]}: {where}, torch {facts['torch']}, "
        f"transformers {facts['transformers']}.",
        _MEANING[result.device],
    ]
    for config in configs:
        rows = [row for row in result.rows if row.recipe == config.recipe]
        if not rows:
            continue
        parts.append(f"## {config.recipe}")
        for text in dict.fromkeys(row.text for row in rows):
            text_rows = [row for row in rows if row.text == text]
            parts += [table.markdown() for table in _make_tables(text_rows, config, result.rate)]
            name = f"{STEM}-{config.recipe}-{text}.png"
            parts += [f"![FLOPs and memory by method and stage]({name})" for path in pictures if path.name == name]
        parts.append(tables.formulas(rows, config).markdown())
        if config.recipe in result.forms:
            parts.append(tables.frozen(result.forms[config.recipe], rows[0].samples).markdown())
        if config.recipe in result.fits:
            parts.append(tables.fits(result.fits[config.recipe], FITTED_TOKENS).markdown())
    if result.points:
        parts += ["## Scaling", f"![Cost along each axis]({STEM}-scaling.png)", tables.growth(result.points).markdown()]
    if result.remarks:
        parts += ["## What is missing", *(f"- {remark}" for remark in result.remarks)]
    claims = (paper.FLOPS, paper.MEMORY_OVERHEAD, paper.TIME, paper.MEMORY)
    printed = Table(
        "Printed there",
        ("table", "what", "self-attention", "HIVE"),
        [
            {"table": claim.table, "what": claim.what, "self-attention": claim.self_attention, "HIVE": claim.hive}
            for claim in claims
        ],
        4,
    )
    parts += ["## The paper's numbers", printed.markdown(), "### Where they contradict each other"]
    parts.append("\n".join(f"{number}. {text}" for number, text in enumerate(paper.INCONSISTENCIES, 1)))
    return "".join(_wrap(line) + "\n" for line in "\n\n".join(parts).splitlines())


def _wrap(line: str) -> str:
    """Returns a line of prose, wrapped at 120 columns; headings, rows of tables and pictures are not changed."""
    if line.startswith(("#", "|", "!")):
        return line
    item = re.match(r"(\d+\. |- )?", line)
    indent = " " * (item.end() if item else 0)
    return textwrap.fill(line, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


_MEANING = {
    "meta": "FLOPs are counted and memory is simulated on tensors without data, at full size; no step ran. For times, "
    "run the same command without `--device meta` on a GPU.",
    "cpu": "Measured on a CPU in fp32. This shows that the ways to count agree; it does not show how long a GPU takes. "
    "The recipe demo is small.",
    "cuda": "Measured on this GPU, in bf16 autocast over fp32 weights.",
}


def _introduce(device: torch.device, configs: Sequence[Config]) -> str:
    names = ", ".join(config.recipe for config in configs)
    return f"{names} on {torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type}. " + _MEANING[
        device.type
    ].replace("`", "")


def _pick_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "meta"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device is cuda, but this torch ({torch.__version__}) sees no GPU: --device meta counts without one, "
            "--device cpu measures a small model."
        )
    return torch.device(name)


def _progress_bar(console: Console) -> Progress:
    """Returns a progress bar, which is shown on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)
