"""The report of a check: what is printed, the list of problems and the contact sheet."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hive.data.check import Findings, look_at_all, verdict
from hive.data.contact_sheet import choose_cells, draw_sheet
from hive.data.fonts import Fonts
from hive.data.pairs import Pairs
from hive.data.problems import describe_problems, to_json_lines
from hive.data.repeats import describe_repeats
from hive.data.summary import Reading, count, describe, labelled, warn
from hive.errors import UserError
from hive.files import replace_files

PROBLEMS, SHEET = "problems.jsonl", "contact_sheet.png"
LETTERS = 15  # pixels
_MISSING = 8  # characters that are named


@dataclass(frozen=True, eq=False)
class DataSet:
    """One of the data sets of a run."""

    data: str
    """As the flag gives it."""
    open: Callable[[], Pairs]
    describe_epoch: Callable[[Pairs], str]
    """The line about held-out pairs and steps. Raises `UserError` where a run can't hold any out."""


def check_set(data: DataSet, pairs: Pairs, reading: Reading, decode: bool, folder: Path, console: Console) -> int:
    """Checks a data set, prints the report and writes its files into the folder.

    Returns the exit code: 0 where a run would start, 2 where it would not, 130 after Ctrl-C.
    """

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    findings = look_at_all(pairs, reading, decode, console)
    starts, sentence = verdict(findings, reading)
    one = reading.unit.removesuffix("s")
    say(labelled("data", f"{data.data}: {count(len(pairs), one)}, {count(len(pairs.skipped), 'record')} left out"))
    if findings.interrupted:
        say(f"interrupted: what follows is of the first {findings.looked:,} of {len(pairs):,} {reading.unit}")
    try:
        say(data.describe_epoch(pairs))
    except UserError as error:
        starts, sentence = False, f"A run would not start: {error}"
    for line in describe_findings(findings, reading):
        say(line)
    if not decode:
        say("\nOnly headers were read: --decode decodes every image, and so finds those that are cut off as well.")
    say(f"\n{_write(findings, reading, data.data, folder)}")
    if findings.interrupted:
        return 130
    say(sentence)
    return 0 if starts else 2


def describe_findings(findings: Findings, reading: Reading) -> list[str]:
    """The lines about lengths, sizes, repetitions and problems."""
    pairs, facts = findings.pairs, findings.facts
    lines = describe(facts, reading)
    repeats = describe_repeats(pairs, facts.images, findings.looked, reading)
    lines += [labelled("" if number else "repeats", sentence) for number, sentence in enumerate(repeats)]
    lines += warn(facts, reading)
    for title, bad in (("bad", True), ("of no use to this run, but not bad", False)):
        if problems := [problem for problem in findings.problems if problem.bad == bad]:
            lines += ["", f"{title}:", *describe_problems(problems)]
    return lines


def _write(findings: Findings, reading: Reading, data: str, folder: Path) -> str:
    """Writes the list of problems, and the contact sheet where an image can be shown; returns the lines about them."""
    files = {folder / PROBLEMS: to_json_lines(findings.problems).encode()}
    number = len(findings.problems)
    lines = [labelled("problems", f"{folder / PROBLEMS} ({number:,}, one a line)" if number else "none")]
    if cells := choose_cells(findings, reading):
        fonts, size, options = Fonts(LETTERS), reading.spec.size, reading.options
        shown = count(len(cells), reading.unit.removesuffix("s"))
        subtitle = f"{shown} chosen by hash, images as the tower reads them ({size}x{size} pixels)"
        if any(cell.cut for cell in cells):
            subtitle += f"; what --dataset.max-text-tokens {options.max_text_tokens:,} cuts off is struck out"
        files[folder / SHEET] = draw_sheet(cells, data, subtitle, fonts)
        lines.append(labelled("sheet", str(folder / SHEET)))
        if fonts.missing:
            named = " ".join(sorted(fonts.missing)[:_MISSING]) + (" …" if len(fonts.missing) > _MISSING else "")
            missing = f"No font here has {count(len(fonts.missing), 'character')} on the sheet ({named}), which are "
            lines.append(labelled("", f"{missing}named in brackets: install one that has, such as Noto."))
    replace_files(files)
    return "\n".join(lines)
