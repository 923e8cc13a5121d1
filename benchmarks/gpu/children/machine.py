"""Tells which GPU and which versions are here, or why torch sees no GPU."""

import os

import torch

from benchmarks.gpu.rows import tell
from hive.efficiency.machine import machine, machine_name


def main() -> None:
    """Tells one row."""
    if not torch.cuda.is_available():
        built = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "was built without CUDA"
        tell({"no_gpu": f"torch {torch.__version__}, which {built}, sees no GPU"})
        return
    facts = machine()
    major, minor = torch.cuda.get_device_capability()
    torch.zeros(1, device="cuda").item()  # a driver that doesn't work fails here
    text = f"{facts['gpu']}, {facts['gpu_memory'] / 2**30:.0f} GiB, compute capability {major}.{minor}; "
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "triton", "transformers", "python", "driver"))
    name = {"name": machine_name(), "capability": 10 * major + minor, "cores": os.cpu_count()}
    tell({"text": text + versions, "machine": facts, **name})


if __name__ == "__main__":
    main()
