"""Where a step's time goes: parts announce themselves, and whoever measures listens.

A model says at which tensor the work passes from one part to the next; the same tensor's gradient says when the
backward pass comes back. Nobody listens in a usual run, and then an announcement costs a comparison.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from hive_kernels import profiling as kernel_profiling

Listener = Callable[[str], None]
PARTS = ("data", "tower", "projector", "fusion", "language", "head", "optimizer")
"""In the order of a step. The projector includes the keys and values, the optimiser clipping and the sum of gradients,
data the copy to the GPU."""

_listener: Listener | None = None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, `listener` hears the name of each part when the work passes to it, on the thread that does the work."""
    global _listener
    assert _listener is None, "one listener at a time"
    _listener = listener
    try:
        yield
    finally:
        _listener = None


def begin(part: str) -> None:
    """From here on the work is `part`'s."""
    if _listener is not None:
        _listener(part)


def boundary(tensor: Tensor, before: str, after: str) -> Tensor:
    """`tensor` is the last that `before` makes: from here on `after` works, and when the gradient is back, `before`."""
    if _listener is not None:
        _listener(after)
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: begin(before))
    return tensor


class NamedRanges:
    """A listener that names the parts in a profile: a range of torch.profiler, and on a GPU one of NVTX.

    One is open at a time. A part of the backward pass begins on autograd's thread and may end on another.
    """

    def __init__(self, nvtx: bool) -> None:
        self._nvtx = nvtx
        self._open: tuple[record_function, int | None] | None = None

    def __call__(self, part: str) -> None:
        """Ends the range of the part before and opens the part's."""
        self.close()
        recorded = record_function(part)
        recorded.__enter__()
        self._open = recorded, torch.cuda.nvtx.range_start(part) if self._nvtx else None

    def close(self) -> None:
        """Ends the last range."""
        if self._open is not None:
            recorded, handle = self._open
            if handle is not None:
                torch.cuda.nvtx.range_end(handle)
            recorded.__exit__(None, None, None)
            self._open = None


WARM_UP, RECORDED = 5, 3  # steps
TRACE = "profile.json"


class StepProfiler:
    """Records a few steps of a run for --profile, their parts named.

    A trace of torch.profiler goes to the run's folder, for chrome://tracing or Perfetto. Under Nsight Systems, whose
    place at the GPU is taken then, torch.profiler stays out and the steps lie between cudaProfilerStart and
    cudaProfilerStop, for `nsys profile --capture-range=cudaProfilerApi`.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.on_gpu = folder, device.type == "cuda"
        self.under_nsight = "NSYS_PROFILING_SESSION_ID" in os.environ
        self._steps = 0
        self._recording: ExitStack | None = None

    def summary(self) -> str:
        """Where the recorded steps are to be found."""
        if self._steps <= WARM_UP:
            return f"profile     none: the run had {self._steps} steps, and the first {WARM_UP} are left out"
        if self.under_nsight:
            return "profile     in the report of Nsight Systems"
        return f"profile     {self.folder / TRACE}"

    def step(self) -> None:
        """Called in front of every step."""
        if self._steps == WARM_UP:
            self._recording = self._start()
        elif self._steps == WARM_UP + RECORDED:
            self.close()
        self._steps += 1

    def close(self) -> None:
        """Ends the recording, also where the run is shorter than planned."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def _start(self) -> ExitStack:
        """What is on the stack is undone last come, first served: ranges end before the profilers do."""
        stack = ExitStack()
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
            stack.callback(torch.cuda.profiler.stop)
        if not self.under_nsight:
            activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if self.on_gpu else [ProfilerActivity.CPU]
            profiler = profile(activities=activities)
            stack.callback(lambda: profiler.export_chrome_trace(str(self.folder / TRACE)))
            stack.enter_context(profiler)
        if self.on_gpu:
            kernel_profiling.enable()
            stack.callback(kernel_profiling.enable, False)
            stack.callback(torch.cuda.synchronize)
        ranges = NamedRanges(nvtx=self.on_gpu)
        stack.callback(ranges.close)
        stack.enter_context(listening(ranges))
        return stack
