"""The commands of the kernels and the benchmarks into a pipe that nobody reads."""

import subprocess
import sys

COMMANDS = (
    "hive_kernels.aot",
    "hive_kernels.backends",
    "hive_kernels.native_check",
    "hive_kernels.selfcheck",
    "hive_kernels.tune",
    "benchmarks.gpu_run",
    "examples.your_model",
    "examples.your_photographs",
)

# All in one process, because importing torch takes seconds.
PROGRAM = """
import os, runpy, sys

for name in sys.argv[1:]:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    sys.stdout = open(1, "w", closefd=False)
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as end:
        print(name, end.code, file=sys.stderr)
"""


def test_help_into_a_closed_pipe() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM, *COMMANDS], stderr=subprocess.PIPE, text=True)
    assert done.stderr.splitlines() == [f"{name} 141" for name in COMMANDS]
