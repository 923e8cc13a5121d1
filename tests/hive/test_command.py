"""How a command ends that others' programs are connected to."""

import os
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


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


COMMANDS = ("train", "vlm", "data", "caption", "export", "claim", "efficiency", "evaluate", "maps", "probe", "report")


@pytest.mark.parametrize("flags", [["--help"], ["--bogus"]])
def test_no_command_prints_a_traceback_into_a_closed_pipe(flags: list[str]) -> None:
    """`python -m hive.train --help 2>&1 | head -1`: help goes to standard output, and the sentence to the error."""
    out = closed_pipe()
    processes = {
        name: subprocess.Popen([sys.executable, "-m", f"hive.{name}", *flags], stdout=out, stderr=out)
        for name in COMMANDS
    }
    os.close(out)
    assert {name: process.wait() for name, process in processes.items()} == dict.fromkeys(COMMANDS, 141)


def test_help_with_a_closed_output_leaves_the_error_output_empty() -> None:
    out = closed_pipe()
    done = subprocess.run([sys.executable, "-m", "hive.report", "--help"], stdout=out, stderr=subprocess.PIPE)
    os.close(out)
    assert (done.returncode, done.stderr) == (141, b"")


def test_progress_into_a_closed_pipe_is_141_too() -> None:
    out = closed_pipe()
    program = "import sys; from hive.command import exit_code, open_console\n"
    program += "sys.exit(exit_code(lambda: open_console().print('step') or 0))"
    done = subprocess.run([sys.executable, "-c", program], stdout=out, stderr=subprocess.PIPE)
    os.close(out)
    assert (done.returncode, done.stderr) == (141, b"")


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
