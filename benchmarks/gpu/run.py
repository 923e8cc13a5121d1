"""Runs a plan: starts its steps in order, keeps what they tell, ends them at their limits, and ends in time.

Nothing here touches the GPU or waits for one child alone. Signals only set a flag, which the loop reads.
"""

import math
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from benchmarks.gpu.child import Child
from benchmarks.gpu.plan import Outcome, Step
from benchmarks.gpu.record import Record, say

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOWN = 8
"""Lines of the output of a step that did not pass, on the terminal; the files have more."""


@dataclass(frozen=True)
class Limits:
    """Seconds."""

    deadline: float
    """When all must be over, by time.monotonic()."""
    grace: float = 4.0
    """Between SIGTERM and SIGKILL, and again until a process that lives on is given up."""
    least: float = 10.0
    """A step is not begun with less than this left, or than its own limit."""


class Stop:
    """Inside, signals that would end this process are noted instead, and wake a loop that selects ``pipe``."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.pipe, self._end = os.pipe()
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> "Stop":
        for end in (self.pipe, self._end):
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in ENDINGS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.pipe)
        os.close(self._end)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)


def run(
    plan: Sequence[Step], record: Record, limits: Limits, stop: Stop, parallel: int, tell: Callable[[str], None]
) -> None:
    """Runs every step of the plan and keeps its rows and outcome in the record; ``tell`` prints a line.

    Steps begin in order, up to ``parallel`` at a time; one that is ``alone`` waits for those before it, and those
    behind it wait for it. One that waits for others to end does not hold up those behind it.
    """
    _check_order(plan, record)
    pending, running = list(plan), list[_Running]()
    try:
        while pending or running:
            if stop.signal:
                for step in pending:
                    _end(record, Outcome(step.name, "skipped", f"{stop.signal.name} came before"), tell)
                pending.clear()
            for step in _startable(pending, running, record, parallel):
                pending.remove(step)
                outcome = _reason_to_skip(step, record, limits)
                if outcome is None:
                    running.append(_Running(step, record, limits, tell))
                else:
                    _end(record, outcome, tell)
            _wait(running, stop)
            for each in [*running]:
                outcome = each.advance(stop)
                if outcome is not None:
                    running.remove(each)
                    _end(record, outcome, tell)
    finally:
        for each in running:
            each.abandon()


def _check_order(plan: Sequence[Step], record: Record) -> None:
    """Asserts that a step waits for earlier ones alone, so that no step waits for ever."""
    known = {outcome.name for outcome in record.outcomes}
    for step in plan:
        waits = {*step.needs, *step.after, *(name for names in step.without.values() for name in names)}
        assert waits <= known, f"{step.name} waits for {waits - known}, which come later or never"
        assert step.name not in known, f"two steps are called {step.name}"
        known.add(step.name)


def _end(record: Record, outcome: Outcome, tell: Callable[[str], None]) -> None:
    record.end(outcome)
    tell(outcome.line())
    for line in outcome.output[-SHOWN:]:
        tell(f"  | {line}")


def _startable(pending: Sequence[Step], running: Sequence["_Running"], record: Record, parallel: int) -> list[Step]:
    """The steps that may begin now, in order."""
    over = {outcome.name for outcome in record.outcomes}
    chosen: list[Step] = []
    if any(each.step.alone for each in running):
        return chosen
    for place, step in enumerate(pending):
        if step.alone:
            if not running and not chosen and place == 0:
                chosen.append(step)
            break
        if len(running) + len(chosen) < parallel and over.issuperset((*step.needs, *step.after)):
            chosen.append(step)
    return chosen


def _reason_to_skip(step: Step, record: Record, limits: Limits) -> Outcome | None:
    if step.unavailable:
        return Outcome(step.name, "skipped", step.unavailable)
    failed = record.failed(step.needs)
    if failed:
        return Outcome(step.name, "skipped", f"{in_words(failed)} did not pass")
    room = limits.deadline - time.monotonic() - 2 * limits.grace
    return None if room >= min(limits.least, step.limit) else Outcome(step.name, "skipped", "no time was left")


def _wait(running: Sequence["_Running"], stop: Stop) -> None:
    """Until a child says something, a signal comes, or a moment has passed."""
    pipes = [pipe for each in running for pipe in each.pipes()]
    ready, _, _ = select.select([stop.pipe, *pipes], [], [], 0.05 if running else 0)
    if stop.pipe in ready:
        os.read(stop.pipe, 64)


class _Running:
    """A step that has begun: its child, and again a child for the items behind one that failed."""

    def __init__(self, step: Step, record: Record, limits: Limits, tell: Callable[[str], None]) -> None:
        self.step, self._record, self._limits, self._tell = step, record, limits, tell
        self._begun = time.monotonic()
        self._until = min(self._begun + step.limit, limits.deadline - 2 * limits.grace)
        self._faults: list[str] = []
        self._skipped = ""
        self._without = {name: in_words(record.failed(needed)) for name, needed in step.without.items()}
        self._todo: list[str] = []
        self._items = 0
        self._item: str | None = None
        self._item_begun = math.inf
        self._item_faulty = False
        self._ending = ""
        self._ended_at = math.inf
        self._killed = False
        self._output: list[str] = []
        self._child: Child | None = None
        self._start()

    def pipes(self) -> list[int]:
        """What to wait for."""
        return [] if self._child is None else self._child.pipes()

    def advance(self, stop: Stop) -> Outcome | None:
        """Keeps what the child has told, ends it where it must end; returns the outcome once the step is over."""
        try:
            return self._advance(stop)
        except Exception as error:  # whatever a step does, the others run
            self._faults.append(f"{type(error).__name__} in the parent: {error}")
            self.abandon()
            return self._outcome()

    def abandon(self) -> None:
        """Kills the child, without waiting for it."""
        if self._child is not None:
            self._output += self._child.lines
            self._child.abandon()
            self._child = None

    def _advance(self, stop: Stop) -> Outcome | None:
        if self._child is None:
            return self._outcome()
        for row in self._child.read():
            self._take(row)
        if self._child.has_ended():
            code, rows = self._child.finish()
            for row in rows:
                self._take(row)
            self._output += self._child.lines
            self._child = None
            self._judge(code)
            return None if self._restart() else self._outcome()
        self._end_in_time(stop)
        if self._killed and time.monotonic() > self._ended_at + 2 * self._limits.grace:
            self.abandon()
            self._faults.append("not even SIGKILL ended it")
            return self._outcome()
        return None

    def _start(self) -> None:
        self._item, self._item_begun, self._ending, self._ended_at, self._killed = None, math.inf, "", math.inf, False
        try:
            self._child = Child(self._command(), self.step.environment, self._until)
        except Exception as error:
            self._faults.append(f"{self.step.command[0]} can't be started: {error}")

    def _command(self) -> list[str]:
        without = [f"{name}={failed} did not pass" for name, failed in self._without.items() if failed]
        flags = [part for each in without for part in ("--without", each)]
        return [*self.step.command, *flags, *self._todo]

    def _take(self, row: dict[str, Any]) -> None:
        if "begin" in row:
            self._next_item(row["begin"])
            return
        if "todo" in row:
            self._todo = [*row["todo"]]
            self._items = self._items or len(self._todo)
            return
        if "fault" in row:
            self._item_faulty = True
            self._faults.append(say(row))
        elif "skipped" in row:
            self._skipped = row["skipped"]
        self._keep(row)

    def _keep(self, row: dict[str, Any]) -> None:
        self._record.add(self.step.name, row)
        if words := say(row):
            self._tell(f"  {self.step.name}: {words}")

    def _next_item(self, name: str | None) -> None:
        if self._item in self._todo:
            self._todo.remove(self._item)
        self._item, self._item_begun, self._item_faulty = name, time.monotonic(), False

    def _end_in_time(self, stop: Stop) -> None:
        """Asks the child to end where its time is over; ends it where it did not."""
        assert self._child is not None
        now = time.monotonic()
        if not self._ending:
            if stop.signal:
                self._ending = f"by {stop.signal.name}"
            elif now > self._until:
                self._ending = f"after {now - self._begun:.0f} s"
            elif now > self._item_begun + self.step.item_limit:
                self._ending = "hang"
            if self._ending:
                self._ended_at = now
                self._child.send(signal.SIGTERM)
        elif not self._killed and now > self._ended_at + self._limits.grace:
            self._killed = True
            self._child.send(signal.SIGKILL)

    def _judge(self, code: int) -> None:
        """Takes down what went wrong where the child did not end well."""
        hung = self._ending == "hang"
        if code == 0 and not self._ending:
            self._todo.clear()
        elif self._ending and not hung:
            pass  # the outcome says that it was cut off
        elif code > 0 and not hung and (self._item_faulty if self._item else self._faults):
            pass  # the fault was told
        else:
            reason = f"hung for {self.step.item_limit:g} s" if hung else describe(code)
            if self._item is not None:
                self._keep({"item": self._item, "fault": reason})
            self._faults.append(f"{self._item}: {reason}" if self._item else reason)

    def _restart(self) -> bool:
        """Starts another child for the items behind the one that ended this child; whether there were any."""
        cut_off = self._ending not in ("", "hang")
        if cut_off or self._item is None or not self._todo:
            return False
        self._next_item(None)
        if not self._todo or self._until - time.monotonic() < min(self._limits.least, self.step.limit / 4):
            return False
        self._start()
        return True

    def _outcome(self) -> Outcome:
        name, seconds = self.step.name, time.monotonic() - self._begun
        items, left = self._items, len(self._todo)
        without = [name for name, failed in self._without.items() if failed]
        if self._ending not in ("", "hang"):
            status = "cut off"
            reason = self._ending + (f", {items - left} of {items} done" if items else "")
        elif self._faults:
            more = f", and {len(self._faults) - 1} more" if len(self._faults) > 1 else ""
            status, reason = "failed", self._faults[0] + more + (f"; {left} of {items} not begun" if left else "")
        elif self._skipped or without:
            status, reason = "skipped", self._skipped or f"{', '.join(without)}, whose check did not pass"
        else:
            status, reason = "passed", ""
        return Outcome(name, status, reason, seconds, [] if status == "passed" else self._output)


def in_words(steps: Sequence[str]) -> str:
    """The names of steps, the first two of many."""
    return ", ".join(steps[:2]) + (f" and {len(steps) - 2} more" if len(steps) > 2 else "")


def describe(code: int) -> str:
    """Why a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    names = {each.value: each.name for each in signal.Signals}
    return f"ended by {names.get(-code, -code)}" + (", as where memory runs out" if -code == signal.SIGKILL else "")
