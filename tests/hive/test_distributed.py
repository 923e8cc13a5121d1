"""Two processes that meet and part."""

import os
import subprocess
import sys

_PROGRAM = """
import torch.distributed as dist, weakref
from hive.distributed import join_world

with join_world("cpu") as world:
    groups = [weakref.ref(world.hosts), weakref.ref(dist.group.WORLD)]
    assert world.sum(world.rank + 1) == 3
    assert world.gather(world.rank) == [0, 1]
    assert world.from_main(world.rank) == 0
assert not dist.is_initialized()
assert [group() for group in groups] == [None, None], "a group outlives its end: its threads may abort the process"
"""


def test_no_group_outlives_the_end() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run(
        [*command, sys.executable, "-c", _PROGRAM],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
