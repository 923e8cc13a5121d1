"""Runs a training step on tensors that have shapes but no data: its peak memory, what it keeps, its FLOPs."""

import gc
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hive.config import Schedule
from hive.cost.counted import Counted, StepCounter
from hive.cost.methods import Subject, loss_of
from hive.data.text import Batch
from hive.optimizer import build_optimizer
from hive.stages import enter_stage


class PeakBytes(TorchDispatchMode):
    """Adds up the bytes of storages that operations allocate, and subtracts those that are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.prim.device.default:  # two of three calls; answering here saves time
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


@dataclass(frozen=True)
class Step:
    """Bytes that a stage's step needs on one device."""

    peak: int
    """Most bytes in use: weights, gradients, optimiser state, activations and temporaries."""
    parameters: int
    gradients: int
    optimizer: int
    kept: int
    """Bytes that the forward pass of a micro-batch keeps for its backward pass, 16-bit copies of weights included."""


def simulate(model: Subject, stages: Sequence[StageShape], precision: torch.dtype) -> list[Step]:
    """Runs a step of each stage and returns its memory.

    `model` is on the meta device and is not usable afterwards. The step is a full one: the optimiser has its state, and
    where a batch has several micro-batches, the gradients of the earlier ones are held while the last one runs.
    `precision` is autocast's dtype and that of a frozen tower's copy, even if the run's tower has 8 bits. Allocator
    rounding, cuBLAS workspaces and the CUDA context add to the peak.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), PeakBytes() as memory, _reading_no_values():
        materialise(model)
        return [_run_step(model, stage, precision, memory) for stage in stages]


@contextmanager
def _reading_no_values() -> Iterator[None]:
    """Inside, transformers' LLaVA doesn't read values, which these tensors don't have.

    It does so in two places: it checks that there are as many image tokens as features, and it looks for several texts
    in a row without padding. The check is skipped, and no row has several texts.
    """
    with (
        patch.dict(os.environ, {"TRANSFORMERS_DISABLE_TORCH_CHECK": "1"}),
        patch("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None),
    ):
        yield


def materialise(model: Subject) -> None:
    """Moves the model from the meta device to memory; tied weights stay one, which `to_empty` alone would split."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    model.to_empty(device="cpu")
    for first, *others in names.values():
        for other in others:
            module, _, attribute = other.rpartition(".")
            setattr(model.get_submodule(module), attribute, model.get_parameter(first))


def _run_step(model: Subject, stage: StageShape, precision: torch.dtype, memory: PeakBytes) -> Step:
    gc.collect()
    memory.peak = memory.live
    batch = stage.micro_batch.map(lambda tensor: torch.empty_like(tensor, device="cpu"))
    parameters = enter_stage(model, stage.parts)
    loss_of_batch = loss_of(model, stage.parts, precision)
    optimizer = build_optimizer(parameters, stage.schedule)
    for parameter in parameters.values():
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()  # stands for an earlier step, which allocated the optimiser's state
    state = [leaf for leaf in tree_leaves(optimizer.state_dict()["state"]) if isinstance(leaf, Tensor)]
    weights, trained, moments = (
        sum(map(_nbytes, tensors)) for tensors in (model.parameters(), parameters.values(), state)
    )
    del state
    if stage.schedule.batch_size <= batch.samples:
        optimizer.zero_grad(set_to_none=True)  # nothing accumulates
    kept = _Kept(model)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32), kept:
        loss = loss_of_batch(batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Step(memory.peak, weights, trained, moments, kept.bytes)


def count_flops(model: Subject, stages: Sequence[StageShape]) -> list[Counted]:
    """FLOPs of a micro-batch in each stage, by torch's counter; `model` as in `simulate`.

    It is a separate pass because the counter keeps what modules return, which would change the peak.
    """
    counts = []
    with FakeTensorMode(allow_non_fake_inputs=True), _reading_no_values():
        materialise(model)
        for stage in stages:
            enter_stage(model, stage.parts)
            batch = stage.micro_batch.map(lambda tensor: torch.empty_like(tensor, device="cpu"))
            with StepCounter() as counter:
                model(batch).backward()
            counts.append(counter.counted())
            model.zero_grad(set_to_none=True)
    return counts


def _nbytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


class _Kept(saved_tensors_hooks):
    """Adds up the bytes of storages that autograd keeps, each once, without parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(self._pack, lambda tensor: tensor)
        self._known = weakref.WeakSet(parameter.untyped_storage() for parameter in model.parameters())
        self.bytes = 0

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known.add(storage)
            self.bytes += storage.nbytes()
        return tensor


def biggest_micro_batch(
    fresh: Callable[[], Subject], shape: Callable[[int], StageShape], capacities: Sequence[int], precision: torch.dtype
) -> list[int]:
    """For each of `capacities` in bytes, the most samples of a micro-batch whose step fits; 0 if not one does.

    `fresh` returns the model on the meta device, `shape` the stage with a number of samples in one micro-batch. In a
    large batch every sample takes the same memory, so two simulations give a line. The guess from it is simulated, and
    lowered by one until it fits.
    """
    small, large = 32, 64
    low, high = (step.peak for step in simulate(fresh(), [shape(small), shape(large)], precision))
    each = (high - low) / (large - small)
    answers = []
    for capacity in capacities:
        guess = max(0, int(small + (capacity - low) / each))
        while guess and simulate(fresh(), [shape(guess)], precision)[0].peak > capacity:
            guess -= 1
        answers.append(guess)
    return answers
