"""A pytest plugin that tells a row for each test: ``-p benchmarks.gpu.children.pytest_rows``.

pytest writes its junit XML at the end. So SIGTERM ends the session as Ctrl-C does, which still writes it.
"""

import signal
from types import FrameType

import pytest

from benchmarks.gpu.rows import tell


class Rows:
    """Tells what became of each test, where that is known: in the process that gathers the workers' reports."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A row for a test's call, and for a set-up or end of one that failed or skipped it."""
        if report.when == "call" or report.outcome != "passed":
            row = {"item": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
            tell(row | ({"fault": _last_line(report)} if report.failed else {}))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A row for a file that can't be imported."""
        if report.failed:
            tell({"item": report.nodeid, "outcome": "failed", "fault": _last_line(report)})


def pytest_configure(config: pytest.Config) -> None:
    """Installs both, except in a worker."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Rows())
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _last_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr)).strip().splitlines()
    return lines[0 if crash else -1][:300] if lines else report.outcome
