"""One child process with its own session: what it tells, what it prints, and how it ends with all its processes."""

import ctypes
import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEPT = 60
"""Lines of a child's output that are kept, the last ones."""
AT_ONCE = 1 << 20
"""Bytes of a pipe that are read at once, so that a child that writes without end holds nothing up."""
_PR_SET_PDEATHSIG = 1


class Child:
    """A running child. Its pipes are never waited for: who runs it reads them when they have something."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], until: float) -> None:
        """Starts the command in the clone's folder; HIVE_UNTIL tells it when it will be ended."""
        rows, rows_end = os.pipe()
        output, output_end = os.pipe()
        self._rows, self._output = rows, output
        self._open = {rows, output}
        self.lines: deque[str] = deque(maxlen=KEPT)
        self._parts = {rows: b"", output: b""}
        for pipe in (rows, output):
            os.set_blocking(pipe, False)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        added = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
        told = {"HIVE_ROWS": str(rows_end), "HIVE_UNTIL": str(until)}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output_end,
                stderr=output_end,
                cwd=ROOT,
                env={**os.environ, **added, **told, **environment},
                pass_fds=[rows_end],
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        except OSError:
            self._close()
            raise
        finally:
            os.close(rows_end)
            os.close(output_end)

    def pipes(self) -> list[int]:
        """The pipes that still have a writer."""
        return [*self._open]

    def read(self) -> list[dict[str, Any]]:
        """Reads what both pipes have; returns the whole rows. A line that is no row is kept as output."""
        rows = []
        for pipe in [*self._open]:
            data, ended = _drain(pipe)
            if ended:
                self._open.remove(pipe)
            *lines, rest = (self._parts[pipe] + data).split(b"\n")
            self._parts[pipe] = rest[-AT_ONCE:]
            for line in (line.decode(errors="replace") for line in lines):
                row = _row(line) if pipe == self._rows else None
                if row is None:
                    self.lines.append(line)
                else:
                    rows.append(row)
        return rows

    def has_ended(self) -> bool:
        """Whether the process itself has ended; its number stays taken until :meth:`finish`."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process and all that it started in its session's group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def finish(self) -> tuple[int, list[dict[str, Any]]]:
        """Once it has ended: ends what it left running; returns the exit code, and rows that were not read yet."""
        self.send(signal.SIGKILL)
        rows = [row for _ in range(32) for row in self.read()]
        if last := self._parts[self._output]:
            self.lines.append(last.decode(errors="replace"))
        self._close()
        return self._process.wait(), rows

    def abandon(self) -> None:
        """Gives up a process that not even SIGKILL ends at once, as one inside a driver's call that never returns."""
        self.send(signal.SIGKILL)
        self._close()

    def _close(self) -> None:
        os.close(self._rows)
        os.close(self._output)


def _drain(pipe: int) -> tuple[bytes, bool]:
    """What a pipe has now, and whether nobody can write to it any more."""
    data = b""
    try:
        while more := os.read(pipe, 1 << 16):
            data += more
            if len(data) >= AT_ONCE:
                return data, False
    except BlockingIOError:
        return data, False
    return data, True


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _end_with_parent() -> None:
    """Makes the kernel end this process when the one that started it dies, even by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
