"""What is wrong with records, sorted by kind."""

import json
import re
from collections.abc import Sequence

from hive.data.pairs import Skipped
from hive.data.summary import printable

PLACES = 3  # named for each kind
_PARTICULARS = (
    (r"\s*\(.*\)", ""),
    (r": .*", ""),
    (r"(?<!\w)(['\"]).*?\1(?!\w)", "…"),
    (r"\S*[/\\]\S*|\S*\w\.[A-Za-z]\w{1,4}\b", "…"),
    (r"\d[\d.,]*", "N"),
)


def describe_problems(problems: Sequence[Skipped]) -> list[str]:
    """The problems by kind, the most frequent first, with the first places of each."""
    kinds: dict[str, list[Skipped]] = {}
    for problem in problems:
        kinds.setdefault(kind_of(problem), []).append(problem)
    lines = []
    for kind, members in sorted(kinds.items(), key=lambda item: -len(item[1])):
        lines.append(f"{len(members):>9,}  {printable(kind)}")
        for problem in members[:PLACES]:
            rest = problem.reason.removeprefix(kind)  # the particulars, where they stand behind the kind
            more = f": {rest}" if rest == problem.reason else rest
            lines.append(f"{'':>9}    {printable(problem.place + more)}")
        if len(members) > PLACES:
            lines.append(f"{'':>9}    and {len(members) - PLACES:,} more")
    return lines


def kind_of(problem: Skipped) -> str:
    """The reason with its particulars cut off, so that the same mistake has the same kind wherever it is.

    Particulars are what stands in brackets, in quotes or behind a colon, names of files, and numbers.
    """
    kind = problem.reason.replace(problem.place, "…")
    for pattern, instead in _PARTICULARS:
        kind = re.sub(pattern, instead, kind)
    return kind.strip()


def to_json_lines(problems: Sequence[Skipped]) -> str:
    """One line a problem, in the form of a run's ledger."""
    return "".join(
        json.dumps({"file": problem.place, "reason": problem.reason, "bad": problem.bad}) + "\n" for problem in problems
    )
