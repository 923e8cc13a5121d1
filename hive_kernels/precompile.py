"""Compiles the kernels that a piece of work launches before it runs: on all cores, without a GPU, into Triton's cache.

A launch finds what is compiled here only under the very key that Triton makes from its arguments: types, which integers
and addresses are multiples of 16, which are 1, constants, warps, stages. So no list of launches is kept. :func:`record`
calls the operations on tensors without data and lets Triton itself note what it would compile.
"""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib import import_module
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hive_kernels import launch


class Launch(NamedTuple):
    """A kernel and how it is launched."""

    module: str
    kernel: str
    specialization: str
    """Triton's own text of all that its key is made of, except the kernel's source and the GPU."""


@dataclass(frozen=True)
class Compiled:
    """What became of one launch."""

    kernel: str
    seconds: float
    error: str = ""


def record(capability: int, work: Callable[[], object]) -> list[Launch]:
    """What ``work`` launches on GPUs of ``capability``, as 90, each launch once and in order.

    ``work`` calls our operations with ``backend="triton"`` on tensors that it makes, which get no data; it may also
    launch kernels on tensors on ``meta``. The process can't launch kernels afterwards: its Triton is set to that GPU.
    """
    from triton import knobs

    assert not launch.INTERPRETED, "Triton interprets kernels here, and compiles none"
    launches: dict[Launch, None] = {}

    def note(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        launches[Launch(fn.module, fn.name, compile["specialization_data"])] = None
        return True  # so that Triton neither compiles nor launches

    _set_target(capability)
    with knobs.runtime.scope(), launch.targeting(capability):
        knobs.runtime.jit_cache_hook = note
        with FakeTensorMode(allow_non_fake_inputs=True), _Calls() as calls:
            work()
        for operator, arguments in calls.made:
            launch.IMPLEMENTATIONS[operator](*(x.tensor() if isinstance(x, _Layout) else x for x in arguments))
    return list(launches)


class _Calls(TorchDispatchMode):
    """Keeps each call of our operators once, with the layouts of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[tuple[str, tuple[object, ...]], None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == launch.LIBRARY.ns:
            arguments = tuple(_Layout.of(x) if isinstance(x, Tensor) else x for x in args)
            self.made[func._schema.name.partition("::")[2], arguments] = None
        return func(*args, **(kwargs or {}))


class _Layout(NamedTuple):
    """How a tensor lies in memory: Triton asks for types, strides and whether addresses are multiples of 16."""

    shape: torch.Size
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> "_Layout":
        """The layout of ``x``, whose memory begins at an aligned address, as torch allocates it."""
        return cls(x.shape, x.stride(), int(x.storage_offset()), x.dtype)

    def tensor(self) -> Tensor:
        """A tensor without data on ``meta``, whose address is its offset."""
        whole = torch.empty(0, dtype=self.dtype, device="meta")
        return whole.set_(whole.untyped_storage(), self.offset, self.shape, self.strides)


def compile_all(capability: int, launches: Sequence[Launch], jobs: int) -> Iterator[Compiled]:
    """Compiles what :func:`record` noted, in ``jobs`` processes; yields each as it is done, the first ones first."""
    if not launches:
        return
    rest = []
    with _pool(min(jobs, len(launches)), capability) as pool:
        futures = {pool.submit(_compile, each): each for each in launches}
        for done in as_completed(futures):
            try:
                compiled = done.result()
            except BrokenProcessPool:  # one launch ended its process, and with it the pool
                rest.append(futures[done])
            else:
                yield compiled
    if rest:
        with ThreadPoolExecutor(jobs) as threads:
            yield from threads.map(partial(_compile_alone, capability), rest)


def _pool(jobs: int, capability: int) -> ProcessPoolExecutor:
    """Processes whose Triton is set to the GPU."""
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_set_target, initargs=(capability,))


def _compile_alone(capability: int, each: Launch) -> Compiled:
    """Compiles one launch in a process of its own, which it may end."""
    with _pool(1, capability) as pool:
        try:
            return pool.submit(_compile, each).result()
        except BrokenProcessPool:
            return Compiled(each.kernel, 0.0, "the process that compiled it ended")


def _compile(each: Launch) -> Compiled:
    """Compiles one launch in a process whose Triton is set to the GPU."""
    start = time.perf_counter()
    try:
        kernel = vars(import_module(each.module))[each.kernel].preload(each.specialization)
        if has_driver():
            _compile_launcher(kernel)
    except Exception as error:
        last = (str(error).strip().splitlines() or [""])[-1]
        return Compiled(each.kernel, time.perf_counter() - start, f"{type(error).__name__}: {last}")
    return Compiled(each.kernel, time.perf_counter() - start)


def _compile_launcher(kernel: Any) -> None:
    """Compiles the C code that launches the kernel: Triton's own, and with Triton 3.6 a function for each signature."""
    from triton.backends.nvidia.driver import CudaLauncher
    from triton.runtime import driver

    assert driver.active.utils is not None  # compiles Triton's own, once
    CudaLauncher(kernel.src, kernel.metadata)


@cache
def has_driver() -> bool:
    """Whether the CUDA driver's library is on this machine, without which what launches a kernel can't be linked."""
    from triton.backends.nvidia.driver import libcuda_dirs

    try:
        return bool(libcuda_dirs())
    except (AssertionError, OSError, subprocess.SubprocessError):
        return False


class Target:
    """What Triton asks its driver for when it compiles; it makes no CUDA context."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)

    @cached_property
    def utils(self) -> object:
        """Triton's C functions, which are compiled and cached here too where that wasn't done before."""
        from triton.backends.nvidia.driver import CudaUtils

        return CudaUtils()

    def get_current_target(self) -> object:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def _set_target(capability: int) -> None:
    """Makes this process's Triton compile for GPUs of ``capability``."""
    from triton.runtime import driver

    driver.set_active(Target(capability))
