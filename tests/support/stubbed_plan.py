"""Children for plans that need no torch: each is a short program that tells rows and then does what its name says.

``python -m tests.support.stubbed_plan FOLDER`` runs a plan of which the second step never ends by itself, as
benchmarks/gpu_run.py runs one.
"""

import sys
import time
from pathlib import Path

from benchmarks.gpu.plan import Step
from benchmarks.gpu.record import Record
from benchmarks.gpu.run import Limits, Stop, run

PROLOGUE = """
import json, os, signal, subprocess, sys, time
def tell(**row):
    os.write(int(os.environ["HIVE_ROWS"]), (json.dumps(row) + "\\n").encode())
helper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
tell(text="so far", pids=[os.getpid(), helper.pid])
"""
"""Every stub starts a process of its own, which must not live on either."""
STUBS = {
    "works": "helper.kill()",
    "hangs": "time.sleep(60)",
    "hangs, and ignores SIGTERM": "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)",
    "crashes": "os.kill(os.getpid(), signal.SIGSEGV)",
    "raises": "raise RuntimeError('CUDA error: an illegal memory access was encountered')",
    "has no memory left": "tell(item='a', fault='OutOfMemoryError: CUDA out of memory'); sys.exit(1)",
    "is killed for memory": "os.kill(os.getpid(), signal.SIGKILL)",
    "does not build": "tell(fault='cmake --build failed with exit code 2'); sys.exit(2)",
    "lacks something": "tell(skipped='nvcc not on the PATH'); helper.kill()",
    "leaves a process": "pass",
    "writes without end": "while True: print('x' * 1000)",
    "tells nonsense": "os.write(int(os.environ['HIVE_ROWS']), b'[1]\\n{cut off\\n'); helper.kill()",
}
ITEMS = """
names = sys.argv[1:] or list("abcde")
tell(todo=names)
for name in names:
    tell(begin=name)
    if name == "b": os.kill(os.getpid(), signal.SIGSEGV)
    if name == "c": time.sleep(60)
    if name == "d":
        tell(item=name, fault="AcceleratorError: sticky")
        sys.exit(3)
    tell(item=name, text=name + " done")
helper.kill()
"""


def stub(name: str, **fields: object) -> Step:
    """A step that does what its name says, with a second for what does not end by itself."""
    limit = 1 if "hangs" in name or "without end" in name else 20
    command = (sys.executable, "-S", "-c", PROLOGUE + STUBS[name])
    return Step(name, command, **{"limit": limit, **fields})  # type: ignore[arg-type]


def main() -> int:
    """Runs the plan; returns its exit code."""
    record = Record(Path(sys.argv[1]), "results")
    plan = [stub("works", limit=20), stub("hangs", limit=60, after=("works",)), stub("crashes", after=("hangs",))]
    with Stop() as stop:
        run(plan, record, Limits(time.monotonic() + 60, grace=0.5), stop, 2, lambda line: print(line, flush=True))
    record.finished = True
    record.save()
    return record.exit_code()


if __name__ == "__main__":
    sys.exit(main())
