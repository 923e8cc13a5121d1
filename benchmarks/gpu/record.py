"""What a run has so far, and the two files that always hold it."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.gpu.plan import Outcome
from hive.errors import UserError
from hive.files import replace_text


@dataclass
class Record:
    """The rows and outcomes so far."""

    folder: Path
    stem: str
    """The files' name without its ending."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Of the run, such as its machine; at the head of the JSON."""
    outcomes: list[Outcome] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    rehearsal: bool = False
    """Whether the steps ran on a CPU, to see that everything runs; then nothing here has a time."""
    writes: bool = True
    """Whether there are files yet."""
    finished: bool = False
    """Whether the run came to its end: false in a file that a kill left behind."""
    unwritten: str = ""
    """Why the files could not be written the last time."""

    def add(self, step: str, row: dict[str, Any]) -> None:
        """Keeps a row, in the files too."""
        self.rows.append({"step": step, **row})
        self.save()

    def end(self, outcome: Outcome) -> None:
        """Keeps how a step ended, in the files too."""
        if self.rehearsal:
            outcome.seconds = None
        self.outcomes.append(outcome)
        self.save()

    def failed(self, steps: Sequence[str]) -> list[str]:
        """Those of the steps that have not passed."""
        passed = {outcome.name for outcome in self.outcomes if outcome.status == "passed"}
        return [step for step in steps if step not in passed]

    def save(self) -> None:
        """Writes both files. Where that can't be, says so once, and later rows try again."""
        if not self.writes:
            return
        steps = [asdict(outcome) for outcome in self.outcomes]
        content = {"rehearsal": self.rehearsal, **self.facts, "finished": self.finished, "steps": steps}
        try:
            report.write(self.folder / f"{self.stem}.json", {**content, "rows": self.rows})
            replace_text(self.folder / f"{self.stem}.txt", self.text() + "\n")
        except (OSError, UserError) as error:
            if not self.unwritten:
                with suppress(OSError):  # the terminal may be closed
                    print(f"the results can't be written now: {error}", file=sys.stderr, flush=True)
            self.unwritten = str(error)
        else:
            self.unwritten = ""

    def text(self) -> str:
        """The outcome of each step and what its rows say, then the table of the measured kernels."""
        lines = self._head()
        for outcome in self.outcomes:
            said = (say(row) for row in self.rows if row["step"] == outcome.name and "median_ms" not in row)
            lines += [outcome.line(), *(f"    {line}" for line in said if line)]
        return "\n".join([*lines, *self._table()])

    def summary(self) -> str:
        """The outcome of each step, and the table of the measured kernels."""
        return "\n".join([*self._head(), *(outcome.line() for outcome in self.outcomes), *self._table()])

    def _head(self) -> list[str]:
        told = [f"{name}: {value}" for name, value in self.facts.items() if isinstance(value, str)]
        if not self.rehearsal:
            return told
        return ["A rehearsal on a CPU: no GPU has run anything of this, and nothing was measured.", *told]

    def _table(self) -> list[str]:
        measured = report.rows_from_json([row for row in self.rows if "median_ms" in row])
        return ["", report.table(measured)] if measured else []

    def exit_code(self) -> int:
        """0 when all steps passed and the files are written, else 1."""
        return 0 if not self.unwritten and all(outcome.status == "passed" for outcome in self.outcomes) else 1


def say(row: dict[str, Any]) -> str:
    """A row in one line; nothing where it has no words."""
    trouble = row.get("fault") or row.get("skipped")
    if not trouble:
        return row.get("text", "")
    return f"{row['item']}: {trouble}" if "item" in row else trouble
