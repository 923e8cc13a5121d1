"""Collects the rows of the session and writes them as JSON, with the machine, to the folder of report.py."""

import pytest

from benchmarks import report
from benchmarks.report import Row
from hive.efficiency.machine import machine, machine_name

_ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """The session's rows, to which every test appends one."""
    return request.config.stash.setdefault(_ROWS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Writes the JSON file and prints the table, whether tests passed or failed."""
    collected = config.stash.get(_ROWS, [])
    if collected:
        path = report.results_folder() / f"kernels-{machine_name()}.json"
        report.write(path, {"machine": machine(), "rows": report.rows_as_json(collected)})
        terminalreporter.write_line(f"\n{report.table(collected)}\n\nwritten to {path}")
