"""What a plan is made of: steps, each a child process; and how a step ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """A child process, which tells rows as it gets them; rows.py says how."""

    name: str
    command: tuple[str, ...]
    """The program and its arguments."""
    limit: float
    """Seconds, after which its processes are ended."""
    needs: tuple[str, ...] = ()
    """Steps that must have passed."""
    after: tuple[str, ...] = ()
    """Steps that must have ended, well or not."""
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What is left out unless steps have passed: the command gets ``--without NAME=reason``."""
    alone: bool = False
    """Whether nothing runs beside it, because it measures."""
    item_limit: float = float("inf")
    """Seconds, after which one of the items that it told counts as hanging."""
    environment: Mapping[str, str] = field(default_factory=dict)
    unavailable: str = ""
    """Why it can't be done here, where that is known before."""


@dataclass
class Outcome:
    """How a step ended."""

    name: str
    status: str
    """``passed``, ``failed``, ``cut off`` or ``skipped``."""
    reason: str = ""
    """Why it did not pass."""
    seconds: float | None = None
    """None for a step that was skipped, and in a rehearsal."""
    output: list[str] = field(default_factory=list)
    """The last lines that it printed."""

    def line(self) -> str:
        """The outcome in one line."""
        seconds = "" if self.seconds is None else f" ({self.seconds:.0f} s)"
        return f"{self.name}: {self.status}" + (f": {self.reason}" if self.reason else "") + seconds
