"""Marks the parts of a training step, so that a profile or a measurement can tell them apart.

`begin` and `boundary` mark where one part ends and the next begins, in the forward pass and, through the gradient of
the same tensor, in the backward pass. They do nothing but one comparison unless `listening` has installed a listener.
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
"""Called with the name of each part when its work begins, on the thread that does the work."""
PARTS = ("data", "tower", "projector", "fusion", "language", "head", "optimizer")
"""In the order of a step. The projector includes the keys and values, the optimiser clipping and the sum of gradients,
data the copy to the GPU."""

_listener: Listener | None = None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Installs `listener` for the length of the `with` block; only one at a time."""
    global _listener
    assert _listener is None, "one listener at a time"
    _listener = listener
    try:
        yield
    finally:
        _listener = None


def begin(part: str) -> None:
    """Marks the beginning of `part`'s work."""
    if _listener is not None:
        _listener(part)


def boundary(tensor: Tensor, before: str, after: str) -> Tensor:
    """Returns `tensor`, the last result of part `before`, and marks the beginning of part `after`.

    When the backward pass has computed the tensor's gradient, the work is `before`'s again, and that is marked too.
    """
    if _listener is not None:
        _listener(after)
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: begin(before))
    return tensor


class NamedRanges:
    """A listener that opens a range of torch.profiler, and on a GPU one of NVTX, for each part.

    One range is open at a time. A range of the backward pass opens on autograd's thread and may close on another.
    """

    def __init__(self, nvtx: bool) -> None:
        self._nvtx = nvtx
        self._open: tuple[record_function, int | None] | None = None

    def __call__(self, part: str) -> None:
        """Closes the open range and opens one named `part`."""
        self.close()
        recorded = record_function(part)
        recorded.__enter__()
        self._open = recorded, torch.cuda.nvtx.range_start(part) if self._nvtx else None

    def close(self) -> None:
        """Closes the open range."""
        if self._open is not None:
            recorded, handle = self._open
            if handle is not None:
                torch.cuda.nvtx.range_end(handle)
            recorded.__exit__(None, None, None)
            self._open = None


WARM_UP, RECORDED = 5, 3  # steps
TRACE = "profile.json"


class StepProfiler:
    """Records a few steps of a run for --profile, with the names of their parts.

    torch.profiler writes a trace to the run folder, for chrome://tracing or Perfetto. Under Nsight Systems, which needs
    the GPU's counters for itself, torch.profiler is not used: the steps are marked by cudaProfilerStart and
    cudaProfilerStop, for `nsys profile --capture-range=cudaProfilerApi`.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.on_gpu = folder, device.type == "cuda"
        self.under_nsight = "NSYS_PROFILING_SESSION_ID" in os.environ
        self._steps = 0
        self._recording: ExitStack | None = None

    def summary(self) -> str:
        """One line that says where the recorded steps are."""
        if self._steps <= WARM_UP:
            return f"profile     none: the run had {self._steps} steps, and the first {WARM_UP} are left out"
        if self.under_nsight:
            return "profile     in the report of Nsight Systems"
        return f"profile     {self.folder / TRACE}"

    def step(self) -> None:
        """Counts a step and starts or ends the recording; call it before every step."""
        if self._steps == WARM_UP:
            self._recording = self._start()
        elif self._steps == WARM_UP + RECORDED:
            self.close()
        self._steps += 1

    def close(self) -> None:
        """Ends the recording; also needed where the run is shorter than planned."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def _start(self) -> ExitStack:
        """Starts recording; closing the stack ends it in reverse order, so that ranges close before the profilers."""
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
