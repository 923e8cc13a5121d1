"""Looks at all pairs of a source as a run would read them, and says whether the run would get through."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hive.data.images import ImageSpec
from hive.data.ledger import allowed_bad
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
    """Everything that a run would leave out: records first, then texts and images, each image once."""
    bad: int
    """Samples that a run would count as bad."""

    @property
    def seen(self) -> int:
        """Samples that were looked at, those left out of the pairs included, as far as they are bad."""
        return self.looked + sum(record.bad for record in self.pairs.skipped)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the check early."""
        return self.looked < len(self.pairs)


def look_at_all(pairs: Pairs, reading: Reading, decode: bool, console: Console) -> Findings:
    """Looks at every text and image, with a progress bar where there is a terminal; Ctrl-C ends it early."""
    spec: ImageSpec | None = reading.spec if decode else None
    dataset = Look(pairs, reading.encoder, reading.options, spec, find_first_pairs(pairs), CHUNK)
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
    bad_images = {pairs.names[fault.pair] for fault in facts.faults if fault.of_image}
    bad_texts = {fault.pair for fault in facts.faults if not fault.of_image}
    bad_pairs = sum(
        index in bad_texts or (pairs.has_image(index) and pairs.names[index] in bad_images) for index in range(looked)
    )
    found = [Skipped(pairs.name(fault.pair), fault.reason, True) for fault in facts.faults]
    bad = bad_pairs + sum(record.bad for record in pairs.skipped)
    return Findings(pairs, facts, looked, [*pairs.skipped, *found], bad)


def verdict(findings: Findings, reading: Reading) -> tuple[bool, str]:
    """(whether a run would get through these samples, the sentence that says so)."""
    share = reading.options.max_bad_share
    allowed = allowed_bad(findings.seen, share)
    of = f"{findings.bad:,} of {count(findings.seen, 'sample')} {'is' if findings.bad == 1 else 'are'} bad"
    if findings.bad > allowed:
        return False, (
            f"A run would stop: {of}, more than the {allowed:,} that --dataset.max-bad-share {share:g} allows: mend or "
            "remove them, or raise the share."
        )
    return True, f"A run would start: {of}, and --dataset.max-bad-share {share:g} allows {allowed:,}."
