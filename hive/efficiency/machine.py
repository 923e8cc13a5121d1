"""The machine that numbers were measured on, and what it can do."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


@cache
def machine() -> dict[str, Any]:
    """Returns what a measured number depends on: date, commit, versions, and the GPU or CPU; sizes in bytes."""
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _first_line("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
        **{package: _version(package) for package in ("triton", "transformers", "flash_attn", "xformers")},
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "gpu_memory": properties.total_memory,
            "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    else:
        facts |= {"gpu": None, "cpu": cpu_name(), "threads": torch.get_num_threads()}
    return facts


def cpu_name() -> str:
    """Returns the CPU's name, as the system gives it, and the number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def machine_name() -> str:
    """Returns the GPU's name, or "cpu", in a form for file names."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return "-".join(gpu.lower().replace("/", " ").split())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def process_bytes(device: torch.device) -> tuple[int | None, str]:
    """Returns the bytes that this process holds on the GPU by NVML, CUDA's context included; or None and the reason."""
    try:
        import pynvml
    except ImportError:
        return None, "NVML's figure: nvidia-ml-py is not installed (pip install nvidia-ml-py)"
    try:
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid() and process.usedGpuMemory:
                return process.usedGpuMemory, ""
    except pynvml.NVMLError as error:
        return None, f"NVML's figure: {error}"
    return None, "NVML's figure: it does not list this process, as in a container that numbers its processes itself"


def matrix_rate(device: torch.device) -> float:
    """Returns the FLOP/s of a large square product, the best of ten: bf16 8192 on a GPU, fp32 1024 on a CPU."""
    on_gpu = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(10))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds that `work` takes, until the device has finished it."""
    wait(device)
    before = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - before


def wait(device: torch.device) -> None:
    """Waits until the device has finished all work that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the GPU's memory was too small, for tensors or for a library's workspace."""
    return isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)
