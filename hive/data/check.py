"""Looks at all pairs of a source as a run would read them, and says whether the run would get through."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hive.data.images import ImageSpec
from hive.data.ledger import GRACE, allowed_bad
from hive.data.loader import stream
from hive.data.look import Facts, Look, find_first_pairs, join
from hive.data.pairs import Pairs, Skipped
from hive.data.summary import Reading, count

CHUNK = 64  # pairs that a worker looks at in one go
WORTH_WORKERS = {False: 10_000, True: 500}  # pairs, by whether images are decoded: fewer are done before workers start


@dataclass(frozen=True, eq=False)
class Findings:
    """What a check of all pairs has found out."""

    pairs: Pairs
    facts: Facts
    looked: int
    """Pairs that were looked at: all, unless the check was interrupted."""
    problems: Sequence[Skipped]
    """Everything that a run would leave out: records first, then texts and images, each place once."""

    @property
    def bad_records(self) -> int:
        """Records with something wrong that shows when the source is opened."""
        return sum(record.bad for record in self.pairs.skipped)

    @property
    def bad_samples(self) -> int:
        """Pairs that turn out to be bad when they are read, those with one image counted once, as in a run's ledger."""
        return len(self.problems) - len(self.pairs.skipped)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the check early."""
        return self.looked < len(self.pairs)


def look_at_all(pairs: Pairs, reading: Reading, decode: bool, console: Console) -> Findings:
    """Looks at every text and image, with a progress bar where there is a terminal; Ctrl-C ends it early."""
    spec: ImageSpec | None = reading.spec if decode else None
    usable = replace(pairs, skipped=())  # workers need no list of the others
    dataset = Look(usable, reading.encoder, reading.options, spec, find_first_pairs(pairs), CHUNK)
    workers = reading.options.workers if len(pairs) >= WORTH_WORKERS[decode] else 0
    parts: list[Facts] = []
    looked = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("decoding" if decode else "reading", total=len(pairs))
        try:
            with closing(stream(dataset, workers, False)) as items:
                for part in items:
                    parts.append(part)
                    looked = min(looked + CHUNK, len(pairs))
                    progress.update(bar, completed=looked)
        except KeyboardInterrupt:
            pass
    return _sum_up(pairs, join(parts), looked)


def _sum_up(pairs: Pairs, facts: Facts, looked: int) -> Findings:
    reasons: dict[str, str] = {}
    for fault in facts.faults:
        reasons.setdefault(pairs.name(fault.pair), fault.reason)
    found = [Skipped(place, reason, True) for place, reason in reasons.items()]
    return Findings(pairs, facts, looked, [*pairs.skipped, *found])


def verdict(findings: Findings, reading: Reading) -> tuple[bool, str]:
    """(whether a run would get through these samples, the sentence that says so), by the rule of a run's ledger."""
    share, records, samples = reading.options.max_bad_share, findings.bad_records, findings.bad_samples
    read = len(findings.pairs)
    whole = read + records
    left = share - records / max(whole, GRACE)
    bad = records + samples
    allowed = min(allowed_bad(whole, share), records + allowed_bad(read, left))
    of = f"{bad:,} of {count(whole, 'sample')} {'is' if bad == 1 else 'are'} bad"
    if bad <= allowed:
        return True, f"A run would start: {of}, and --dataset.max-bad-share {share:g} allows {allowed:,}."
    return False, (
        f"A run would {'not start' if records > allowed else 'stop'}: {of}, more than the {allowed:,} that "
        f"--dataset.max-bad-share {share:g} allows: mend or remove them, or raise the share."
    )
