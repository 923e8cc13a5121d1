"""How a command ends that others' programs are connected to."""

import subprocess
import sys
from pathlib import Path

import pytest

from hive.command import exit_code

_PROGRAM = """
import sys
from hive.command import exit_code

sys.exit(exit_code(lambda: print("line\\n" * 100_000) or 0))
"""


def test_output_that_nobody_reads_is_no_traceback() -> None:
    """As behind `| head -1`: the reader goes after one line."""
    writer = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stderr is not None
    assert writer.stdout.readline() == b"line\n"
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait() == 141


def test_a_place_that_cannot_be_made_is_one_sentence(capsys: pytest.CaptureFixture) -> None:
    def command() -> int:
        Path("/proc/nowhere").mkdir()
        return 0

    assert exit_code(command) == 2
    assert capsys.readouterr().err.startswith("error: /proc/nowhere can't be used (")


def test_another_pipe_that_breaks_is_a_fault_of_ours() -> None:
    def command() -> int:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        exit_code(command)
