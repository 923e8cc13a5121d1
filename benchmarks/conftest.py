"""Collects the rows of the session and leaves them as JSON, with the machine, where report.py says."""

import pytest

from benchmarks import report
from benchmarks.measure import Row
from hive.efficiency.machine import machine, machine_name

_ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """Every test appends its row."""
    return request.config.stash.setdefault(_ROWS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Writes the file, whatever has passed or failed."""
    collected = config.stash.get(_ROWS, [])
    if collected:
        path = report.results_folder() / f"kernels-{machine_name()}.json"
        report.write(path, {"machine": machine(), "rows": report.rows_as_json(collected)})
        terminalreporter.write_line(f"\n{report.table(collected)}\n\nwritten to {path}")
