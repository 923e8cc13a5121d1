"""What the Triton backends share: whether Triton can run, the library of operators, and the context of a launch.

Only the modules with kernels import Triton, and they are imported when a kernel is first launched.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import torch

from hive_kernels import first_use, profiling
from hive_kernels.validation import invalid

LIBRARY = torch.library.Library("hive_kernels", "FRAGMENT")
"""The operators of the Triton kernels: schemas and implementations."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
HAS_TRITON = find_spec("triton") is not None
# Triton reads the variable when it is imported, so setting it later would change nothing.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
IMPLEMENTATIONS: dict[str, Callable[..., object]] = {}
"""By operator, the function that launches its kernels; precompile.py calls it on tensors without data."""
_target: int | None = None


def interpreter_problem(triton: str, numpy: str) -> str | None:
    """Why the interpreter of this release of Triton can't run beside this release of numpy; None when it can."""
    if _release(triton) < (3, 7) and _release(numpy) >= (2, 4):
        return (
            f"the interpreter of triton {triton} needs numpy below 2.4, but numpy {numpy} is installed; "
            "pip install 'numpy<2.4'"
        )
    return None


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


INTERPRETER_PROBLEM = (
    interpreter_problem(*(import_module(name).__version__ for name in ("triton", "numpy")))
    if HAS_TRITON and INTERPRETED
    else None
)


def reason_unavailable(kind: str) -> str | None:
    """Why Triton can't run on devices of this type, as "cuda"; None when it can."""
    if not HAS_TRITON:
        return "the package triton can't be imported; pip install triton"
    if _target is not None:
        return None
    if kind == "cuda":
        return None if torch.cuda.is_available() else "torch sees no CUDA GPU"
    if kind == "cpu":
        hint = "Triton needs a GPU; on a CPU TRITON_INTERPRET=1 interprets it, slowly"
        return INTERPRETER_PROBLEM if INTERPRETED else hint
    return "Triton runs on CUDA GPUs"


def implement(operator: str, function: Callable[..., object]) -> None:
    """Registers ``function`` as the operator's implementation on GPUs and, for the interpreter, on CPUs."""
    IMPLEMENTATIONS[operator] = function
    for device in ("CPU", "CUDA"):
        LIBRARY.impl(operator, function, device)


@contextmanager
def targeting(capability: int) -> Iterator[None]:
    """Inside, tensors that are on no GPU get the kernels and tiles of GPUs of this compute capability, as 90.

    The kernels can't run on such tensors, which have no data; precompile.py records and compiles their launches.
    """
    global _target
    before, _target = _target, capability
    try:
        yield
    finally:
        _target = before


@contextmanager
def ready(name: str, device: torch.device, *dtypes: torch.dtype) -> Iterator[None]:
    """Inside, ``device`` is selected and checked (see :mod:`hive_kernels.first_use`), and profiles show ``name``.

    Raises:
        ValueError: the kernels don't support one of ``dtypes`` here.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise invalid("dtype", dtype, "torch.float16, torch.bfloat16 or torch.float32 under backend 'triton'")
        if INTERPRETED and dtype == torch.bfloat16:
            raise invalid(
                "dtype", dtype, "torch.float16 or torch.float32 under TRITON_INTERPRET=1, whose bf16 products are wrong"
            )
    if device.type != "cuda":
        with profiling.span(name):
            yield
        return
    first_use.ensure(device, "triton")
    with torch.cuda.device(device), profiling.span(name):
        yield


def capability(device: torch.device) -> int:
    """The compute capability as tile tables have it: 86 for an RTX 3090, 90 for an H100, 0 for the interpreter."""
    if device.type != "cuda":
        return _target or 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
