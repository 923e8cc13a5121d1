"""The record of samples that could not be read: none is replaced, and too many end the run."""

import json
from pathlib import Path

from hive.errors import UserError
from hive.files import keep_records, read_records

LEDGER = "bad_samples.jsonl"
GRACE = 1000  # samples: below this many read, the share is taken of this number, so that one early failure ends nothing


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
            keep_records(self.path, lambda record: True)  # the kill that made a resume necessary may have cut a line
        self._names = {record["file"] for record in read_records(self.path)}

    def count(self, samples: int, bad: tuple[tuple[int, str, str], ...]) -> None:
        """Adds readable `samples` and the (index, name, reason) of bad ones; `UserError` above the allowed share."""
        self.seen += samples + len(bad)
        self.bad += len(bad)
        for _, name, reason in bad:
            if self.writes and name not in self._names:
                self._names.add(name)
                with self.path.open("a") as file:
                    file.write(json.dumps({"file": name, "reason": reason}) + "\n")
        if bad and self.bad > self.max_share * max(self.seen, GRACE):
            raise UserError(
                f"{self.bad} of the {self.seen} samples read so far are bad, more than --dataset.max-bad-share "
                f"{self.max_share} allows; see {self.path}: mend or remove them, or raise the share."
            )
