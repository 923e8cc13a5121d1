"""Two processes that meet and part."""

import os
import subprocess
import sys

import pytest
import torch

from hive.distributed import pick_device
from hive.errors import UserError
from hive.train.telemetry import peak_memory_gb
from hive.train.trainer import device_name
from hive_kernels.backends import resolve, table

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


def test_apples_gpu_where_there_is_none() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(
        UserError, match=r"--device is mps, but this torch \(.*\) sees no GPU of Apple: use --device cpu"
    ):
        pick_device("mps")
    with pytest.raises(UserError, match="must be auto, cpu, mps, cuda or cuda:N"):
        pick_device("xpu")


def test_apples_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such machine has run this: what depends on the device alone, with torch's answers put in its place."""
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.mps.driver_allocated_memory", lambda: 3_000_000_000)
    device = torch.device("mps")
    assert pick_device("mps") == device
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="on which only one process can run: start it without torchrun"):
        pick_device("mps", 0)
    assert peak_memory_gb(device) == 3
    assert device_name(device) == "Apple's GPU"
    assert resolve("auto", device) == resolve("torch", device) == "torch"
    assert "triton: Triton runs on CUDA GPUs" in table(device)
    with pytest.raises(
        ValueError, match="can't run on mps: Triton runs on CUDA GPUs; allowed here: auto, torch, refer"
    ):
        resolve("triton", device)
