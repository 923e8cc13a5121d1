"""The CUDA C++ backend's shared library: whether it is built and can run; it is loaded at the first such question.

``make native`` in a clone or ``HIVE_BUILD_CUDA=1 pip install .`` builds it from csrc/ with nvcc. On a CPU,
HIVE_CUDA_EMULATOR=FILE names a library with the same kernels in an emulator, for tests (docs/kernels.md).
"""

import os
from functools import cache
from pathlib import Path

import torch

from hive_kernels import first_use, native_file

LIBRARY = torch.library.Library("hive_kernels_cuda", "FRAGMENT")
"""The operators' schemas, which the backends define; the shared library has the implementations."""
FILE = Path(__file__).parent / "lib" / "libhive_kernels_cuda.so"
EMULATOR = Path(os.environ["HIVE_CUDA_EMULATOR"]) if os.environ.get("HIVE_CUDA_EMULATOR") else None
CAPABILITY = (8, 0)


@torch.compiler.assume_constant_result
def reason_unavailable(kind: str) -> str | None:
    """Why the library can't run on devices of this type, as "cuda"; None when it can, and then it is loaded.

    Every call of an operation asks. What the file and the GPU say is found out once: a library that is built later is
    used by the next process.
    """
    if kind == "cpu":
        if EMULATOR is None:
            return "CUDA needs a GPU; on a CPU HIVE_CUDA_EMULATOR names a library that emulates it, slowly"
        return _load(EMULATOR, "CPU")
    if kind != "cuda":
        return "CUDA runs on CUDA GPUs"
    return _load(FILE, "CUDA")


@cache
def _load(library: Path, key: str) -> str | None:
    """Loads the library; None, or why it can't be loaded or has no kernels for this dispatch key."""
    capability = None
    if key == "CUDA":
        if not library.exists():
            return f"not built; {native_file.BUILD[key]}"
        if not torch.cuda.is_available():
            return "torch sees no CUDA GPU"
        capability = torch.cuda.get_device_capability()
        if capability < CAPABILITY:
            return "this GPU is older than compute capability 8.0"
    reason = native_file.problem(library, key, capability)
    if reason is not None:
        return reason
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        said = str(error.__cause__ or error).removeprefix(f"{library}: ")
        return f"{library} can't be loaded ({said}); {native_file.BUILD[key]}"
    return None


@torch.compiler.assume_constant_result
def ready(device: torch.device) -> None:
    """Checks the kernels once on a GPU before they are first used there (see :mod:`hive_kernels.first_use`)."""
    if device.type == "cuda":
        first_use.ensure(device, "cuda")
