"""The CUDA C++ backend's shared library: whether it is built and can run; it is loaded at the first such question.

``make native`` in a clone or ``HIVE_BUILD_CUDA=1 pip install .`` builds it from csrc/ with nvcc. On a CPU,
HIVE_CUDA_EMULATOR=FILE names a library with the same kernels in an emulator, for tests (docs/kernels.md).
"""

import os
from functools import cache
from pathlib import Path

import torch

from hive_kernels import first_use

LIBRARY = torch.library.Library("hive_kernels_cuda", "FRAGMENT")
"""The operators' schemas, which the backends define; the shared library has the implementations."""
FILE = Path(__file__).parent / "lib" / "libhive_kernels_cuda.so"
EMULATOR = os.environ.get("HIVE_CUDA_EMULATOR") or None
CAPABILITY = (8, 0)


@torch.compiler.assume_constant_result
def reason_unavailable(kind: str) -> str | None:
    """Why the library can't run on devices of this type, as "cuda"; None when it can, and then it is loaded."""
    if kind == "cpu":
        if EMULATOR is None:
            return "CUDA needs a GPU; on a CPU HIVE_CUDA_EMULATOR names a library that emulates it, slowly"
        return _load(EMULATOR, "CPU")
    if kind != "cuda":
        return "CUDA runs on CUDA GPUs"
    if not FILE.exists():
        return "not built; run make native in a clone, or HIVE_BUILD_CUDA=1 pip install ., where nvcc is"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    if torch.cuda.get_device_capability() < CAPABILITY:
        return "this GPU is older than compute capability 8.0"
    return _load(str(FILE), "CUDA")


@cache
def _load(path: str, key: str) -> str | None:
    """Loads the library; None, or why it can't be loaded or has no kernels for this dispatch key."""
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path} can't be loaded: {error.__cause__ or error}"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"{LIBRARY.ns}::cross_attention", key):
        return f"{path} has no {key} kernels of ours"
    return None


@torch.compiler.assume_constant_result
def ready(device: torch.device) -> None:
    """Checks the kernels once on a GPU before they are first used there (see :mod:`hive_kernels.first_use`)."""
    if device.type == "cuda":
        first_use.ensure(device, "cuda")
