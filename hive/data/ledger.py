"""The list of samples that could not be used. None is replaced by another; too many end the run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hive.errors import UserError
from hive.files import keep_records, read_records

if TYPE_CHECKING:  # reports read a ledger without torch
    from hive.data.pairs import Skipped
    from hive.data.text import BadSample

LEDGER = "bad_samples.jsonl"
GRACE = 1000  # samples: the bad share is taken of at least this number, so that one early bad sample doesn't end a run


def allowed_bad(samples: int, max_share: float) -> int:
    """How many of so many samples may be bad."""
    return int(max_share * max(samples, GRACE) + 1e-6)  # 0.57 * 100 is a little less than 57


def check_skipped(skipped: Sequence["Skipped"], size: int, max_share: float) -> None:
    """Raises `UserError` where too many records of a source are bad; `size` records are usable."""
    bad = [record for record in skipped if record.bad]
    if len(bad) > allowed_bad(size + len(bad), max_share):
        place, reason, _ = bad[0]
        raise UserError(
            f"{len(bad):,} of {size + len(bad):,} records are bad, such as {place} ({reason}), more than "
            f"--dataset.max-bad-share {max_share:g} allows: mend or remove them, or raise the share."
        )


class Ledger:
    """bad_samples.jsonl in the run folder, one line a place with the reason, and how many samples are bad.

    A sample counts once, however often it is read. Bad records are a share of all records, which were all read when the
    run started; what they leave of `max_share` is allowed for images, as a share of those read so far.
    """

    def __init__(
        self,
        folder: Path,
        max_share: float,
        *,
        size: int,
        skipped: Sequence["Skipped"] = (),
        seen: int = 0,
        bad: int = 0,
        writes: bool = True,
    ) -> None:
        """`size` samples can be read, held-out ones included; `skipped` are the records that were left out before.

        `seen` and `bad` are the counts of the run that is being resumed, whose list is in the folder. Only one process
        `writes`.
        """
        self.path = folder / LEDGER
        self.max_share = max_share
        self.size = size
        self.seen = seen
        self.writes = writes
        if writes:
            keep_records(self.path, lambda record: True)  # the last line may be cut where the earlier run was killed
        listed = [record["file"] for record in read_records(self.path)]
        left_out = {record.place for record in skipped}
        # Lines after the first `bad` ones are of steps that will be taken again.
        self._bad = dict.fromkeys([place for place in listed if place not in left_out][:bad])
        self._listed = set(listed)
        bad_records = sum(record.bad for record in skipped)
        self._share_left = max_share - bad_records / max(size + bad_records, GRACE)
        self._last = ""
        self._to_tell: BadSample | None = None
        self._write([{"file": record.place, "reason": record.reason, "bad": record.bad} for record in skipped])

    @property
    def bad(self) -> int:
        """The number of samples that were bad when they were read, each counted once."""
        return len(self._bad)

    @property
    def read(self) -> int:
        """The number of samples that were read, each counted once."""
        return min(self.seen, self.size)

    @property
    def exceeded(self) -> bool:
        """Whether too many samples are bad."""
        return self.bad > allowed_bad(self.read, self._share_left)

    def count(self, samples: int, bad: Sequence["BadSample"]) -> None:
        """Adds a number of usable `samples`, and the bad ones, which are listed if they aren't yet."""
        self.seen += samples + len(bad)
        if bad and not self._bad:
            self._to_tell = bad[0]
        for _, name, reason in bad:
            self._bad[name] = None
            self._last = f"{name} ({reason})"
        self._write([{"file": name, "reason": reason} for _, name, reason in bad])

    def check(self) -> None:
        """Raises `UserError` where too many samples are bad."""
        if self.exceeded:
            raise UserError(f"{self.describe_excess()}: mend or remove them, or raise the share.")

    def describe_excess(self) -> str:
        """The counts, and the share that they exceed."""
        last = f", the last of them {self._last}" if self._last else ""
        return (
            f"{self.bad:,} of the {self.read:,} samples read so far are bad{last}, more than --dataset.max-bad-share "
            f"{self.max_share:g} allows; they are listed in {self.path}"
        )

    def take_news(self) -> str | None:
        """A sentence about the first bad sample of a run, once; otherwise None."""
        if self._to_tell is None:
            return None
        (_, name, reason), self._to_tell = self._to_tell, None
        return f"bad sample: {name} ({reason}) is left out; this one and later ones are listed in {self.path}"

    def _write(self, records: Sequence[dict[str, object]]) -> None:
        """Appends a line for each place that has none yet."""
        new = {str(record["file"]): record for record in records if record["file"] not in self._listed}
        if new and self.writes:
            self._listed.update(new)
            with self.path.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in new.values())
