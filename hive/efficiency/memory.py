"""Peak memory of a training step, found by running it on tensors that have shapes but no data."""

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hive.config import Schedule
from hive.data.text import Batch
from hive.model.build import Model
from hive.stages import build_optimizer, enter_stage


class PeakBytes(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off when they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.prim.device.default:  # two calls of three: answered here, to save time
            return args[0].fake_device
        out = func(*args, **(kwargs or {}))
        for leaf in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, once."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.live -= size


@dataclass(frozen=True)
class StageShape:
    """What decides the memory of a stage's step."""

    parts: frozenset[str]
    """Names in `model.parts()` that are trained."""
    schedule: Schedule
    micro_batch: Batch
    """On the meta device."""


def step_bytes(model: Model, stages: Sequence[StageShape], precision: torch.dtype) -> list[int]:
    """Most bytes in use in each stage: weights, gradients, optimiser state, activations and what passes by.

    `model` lies on the meta device and is not usable afterwards. The step is a full one: the optimiser has its state,
    and where a batch has several micro-batches, the gradients of the earlier ones lie there while the last one is run.
    `precision` is autocast's dtype. Allocator rounding, cuBLAS workspaces and the CUDA context come on top.
    """
    peaks = []
    with FakeTensorMode(allow_non_fake_inputs=True), PeakBytes() as memory:
        model.to_empty(device="cpu")
        for stage in stages:
            gc.collect()
            memory.peak = memory.live
            _run_step(model, stage, precision)
            peaks.append(memory.peak)
    return peaks


def _run_step(model: Model, stage: StageShape, precision: torch.dtype) -> None:
    batch = stage.micro_batch.map(lambda tensor: torch.empty_like(tensor, device="cpu"))
    parameters = enter_stage(model, stage.parts)
    optimizer = build_optimizer(parameters, stage.schedule)
    for parameter in parameters.values():
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()  # the step before, which made the optimiser's state
    if stage.schedule.batch_size <= batch.samples:
        optimizer.zero_grad(set_to_none=True)  # nothing accumulates
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        loss = model(batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
