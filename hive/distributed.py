"""Communication among the processes of a run: one a GPU under torchrun, a single one otherwise."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from hive.errors import UserError

T = TypeVar("T")


@dataclass
class World:
    """This process's rank, device and communication with the other processes of the run."""

    rank: int
    size: int
    device: torch.device
    hosts: Any = None
    """The process group that exchanges host memory; None for a single process."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def sum(self, number: float) -> float:
        """The sum of every process's number; computed on the hosts, so that nobody waits for a GPU."""
        if self.size == 1:
            return number
        total = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(total, group=self.hosts)
        return total.item()

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process; all get the same answer, and so act at the same step."""
        return self.sum(float(flag)) > 0

    def gather(self, value: T) -> list[T]:
        """Every process's value, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.hosts)
        return values

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elementwise sum of every process's tensor, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its sum over the processes; one whose images were all unreadable adds zeros.

        Called once a step, after all micro-batches, so there is no backward pass left to overlap with.
        """
        if self.size == 1:
            return
        pending = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            pending.append(dist.all_reduce(parameter.grad, async_op=True))
        for work in pending:
            work.wait()

    def from_main(self, value: T) -> T:
        """The first process's value, on every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.hosts)
        return values[0]

    def barrier(self) -> None:
        """Waits for every process."""
        self.sum(0)


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Yields this process's `World`: rank and size from torchrun's environment, on `device` as `pick_device` reads it.

    Joins the process groups before, and leaves them after.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", 0)) if size > 1 else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(rank, size, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    world = World(rank, size, chosen, dist.new_group(backend="gloo"))
    try:
        yield world
    finally:
        # gloo's threads may hold tensors after the last sum has returned, and a process that exits before they release
        # them aborts. Destroying the groups waits for the threads, if no other reference to a group is left.
        world.hosts = None
        dist.destroy_process_group()


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device that "auto", "cpu", "mps", "cuda" or "cuda:1" means; `UserError` where this machine or torch lacks it.

    "auto" is not "mps", on which nothing here has run yet.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f'--device is "{name}", but it must be auto, cpu, mps, cuda or cuda:N.') from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f'--device is "{name}", but it must be auto, cpu, mps, cuda or cuda:N.')
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UserError(
                f"--device is {name}, but this torch ({torch.__version__}) sees no GPU of Apple: use --device cpu, or "
                "a Mac with Apple silicon."
            )
        if local_rank is not None:
            raise UserError(f"--device is {name}, on which only one process can run: start it without torchrun.")
        device = torch.device("mps")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"--device is {name}, but this torch ({torch.__version__}) sees no GPU: use --device cpu, or "
                "install a torch built for CUDA and a driver."
            )
        index = device.index if device.index is not None else (local_rank or 0)
        if index >= torch.cuda.device_count():
            raise UserError(
                f"--device is {name}, but this machine has {torch.cuda.device_count()} GPUs: use cuda:0 to "
                f"cuda:{torch.cuda.device_count() - 1}."
            )
        device = torch.device("cuda", index)
    return device
