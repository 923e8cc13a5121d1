"""Peak memory of a training step, found by running it on tensors that have shapes but no data."""

import weakref
from collections.abc import Callable
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
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
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


def step_bytes(model: Model, parts: frozenset[str], schedule: Schedule, batch: Batch, precision: torch.dtype) -> int:
    """Most bytes in use over two optimiser steps: weights, gradients, optimiser state, activations and what passes by.

    `model` and `batch` lie on the meta device; the model is not usable afterwards. The second step is the full one:
    only then does the optimiser have its state. `precision` is autocast's dtype. Allocator rounding, cuBLAS workspaces
    and the CUDA context come on top.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), PeakBytes() as memory:
        model.to_empty(device="cpu")
        batch = batch.map(lambda tensor: torch.empty_like(tensor, device="cpu"))
        parameters = enter_stage(model, parts)
        optimizer = build_optimizer(parameters, schedule)
        for _ in range(2):
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                loss = model(batch)
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return memory.peak
