"""The two backends that have kernels of ours, as tests see them: on a GPU where there is one, else emulated."""

import ctypes
import fcntl
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from hive_kernels import native
from hive_kernels.launch import INTERPRETED

ROOT = Path(__file__).parents[2]


class Kernels(NamedTuple):
    """A backend."""

    name: str
    device: str
    dtypes: tuple[torch.dtype, ...]
    """Those that are right on ``device``, the widest first."""
    dim: int
    """The narrowest head."""
    namespace: str
    """Of its operators."""


TRITON = Kernels(
    "triton",
    "cpu" if INTERPRETED else "cuda",
    (torch.float32, torch.float16) if INTERPRETED else (torch.float32, torch.float16, torch.bfloat16),
    32,
    "hive_kernels",
)
CUDA = Kernels(
    "cuda",
    "cuda" if torch.cuda.is_available() else "cpu",
    (torch.float16, torch.bfloat16),
    64,
    "hive_kernels_cuda",
)
EMULATED = CUDA._replace(device="cpu")
"""The CUDA backend in its emulator, on a GPU's machine too."""
ON_BOTH_DEVICES = pytest.mark.parametrize(
    "kernels",
    [
        pytest.param(EMULATED, id="emulator"),
        pytest.param(CUDA._replace(device="cuda"), id="gpu", marks=pytest.mark.gpu),
    ],
)
BOTH = pytest.mark.parametrize("kernels", [TRITON, CUDA], ids=lambda kernels: kernels.name)
BOTH_IN_EVERY_DTYPE = pytest.mark.parametrize(
    ("kernels", "dtype"),
    [pytest.param(k, dtype, id=f"{k.name}-{str(dtype)[6:]}") for k in (TRITON, CUDA) for dtype in k.dtypes],
)


@cache
def emulator() -> Path:
    """The CUDA kernels built for the CPU by the project's own CMake, anew where their source or torch has changed."""
    for program in ("cmake", "c++"):
        if shutil.which(program) is None:
            pytest.skip(f"the CUDA backend's emulator needs {program}")
    folder = ROOT / "build" / f"emulator-torch-{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers of this run wait
        torch_folder = Path(torch.__file__).parent
        commands: tuple[list[str | Path], ...] = (
            ["cmake", "-S", ROOT, "-B", folder, "-DHIVE_EMULATED=ON", f"-DHIVE_TORCH={torch_folder}"],
            ["cmake", "--build", folder],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder / "libhive_kernels_emulated.so"


def settings() -> ctypes.CDLL:
    """What csrc/emulator/settings.cpp exports."""
    library = ctypes.CDLL(str(emulator()))
    library.hive_emulator_bank_conflicts.restype = ctypes.c_int64
    library.hive_emulator_allocated_bytes.restype = ctypes.c_int64
    library.hive_emulator_last_blocks.argtypes = [ctypes.c_int64]
    library.hive_emulator_last_launch.restype = ctypes.POINTER(ctypes.c_int64)
    return library


def prepare(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the backend run here, or skips the test."""
    if kernels.name == "cuda" and kernels.device == "cpu":
        monkeypatch.setattr(native, "EMULATOR", emulator())
        assert native.reason_unavailable("cpu") is None  # and now its operators are there
    elif kernels.name == "cuda" and (reason := native.reason_unavailable("cuda")):
        pytest.skip(reason)
