"""The record of samples that could not be read. None is replaced by another; too many end the run."""

import json
from pathlib import Path

from hive.errors import UserError
from hive.files import keep_records, read_records

LEDGER = "bad_samples.jsonl"
GRACE = 1000  # samples: the bad share is taken of at least this number, so that one early bad sample doesn't end a run


def allowed_bad(samples: int, max_share: float) -> int:
    """How many of so many samples may be bad."""
    return int(max_share * max(samples, GRACE) + 1e-6)  # 0.57 * 100 is a little less than 57


class Ledger:
    """bad_samples.jsonl in the run folder: one line a file, with the reason."""

    def __init__(self, folder: Path, max_share: float, *, seen: int = 0, bad: int = 0, writes: bool = True) -> None:
        """`seen` and `bad` are the counts of the run that is being resumed; only one process `writes`."""
        self.path = folder / LEDGER
        self.max_share = max_share
        self.seen = seen
        self.bad = bad
        self.writes = writes
        if writes:
            keep_records(self.path, lambda record: True)  # the last line may be cut where the earlier run was killed
        self._names = {record["file"] for record in read_records(self.path)}

    def count(self, samples: int, bad: tuple[tuple[int, str, str], ...]) -> None:
        """Adds a number of readable `samples` and the (index, name, reason) of bad ones.

        Raises `UserError` when the share of bad ones exceeds `max_share`.
        """
        self.seen += samples + len(bad)
        self.bad += len(bad)
        for _, name, reason in bad:
            if self.writes and name not in self._names:
                self._names.add(name)
                with self.path.open("a") as file:
                    file.write(json.dumps({"file": name, "reason": reason}) + "\n")
        if bad and self.bad > allowed_bad(self.seen, self.max_share):
            raise UserError(
                f"{self.bad} of the {self.seen} samples read so far are bad, more than --dataset.max-bad-share "
                f"{self.max_share} allows; see {self.path}: mend or remove them, or raise the share."
            )
