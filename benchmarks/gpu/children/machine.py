"""Tells which GPU and versions are here and which checks there are, or why torch sees no GPU: ``machine.py [cpu]``.

With ``cpu``, for a rehearsal, it tells the same of the CPU.
"""

import os
import sys
from collections.abc import Sequence

import torch

from benchmarks.gpu.rows import tell
from hive.efficiency.machine import machine, machine_name
from hive_kernels.backends import BACKENDS
from hive_kernels.selfcheck import cases, half_precision


def main(arguments: Sequence[str]) -> None:
    """Tells one row."""
    device = torch.device(arguments[0] if arguments else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        tell({"skipped": f"torch {torch.__version__}, {built}, sees no GPU"})
        return
    facts = machine()
    backends = [name for name, backend in BACKENDS.items() if backend.checked]
    known = {
        "machine": facts,
        "name": machine_name(),
        "capability": 90,
        "cores": os.cpu_count(),
        "checks": {backend: [case.name for case in cases(backend)] for backend in backends},
        "dtypes": {backend: str(half_precision(backend, device)[0]).removeprefix("torch.") for backend in backends},
    }
    what = facts["gpu"] or facts["cpu"]
    if device.type == "cuda":
        torch.zeros(1, device=device).item()  # a driver that doesn't work fails here
        major, minor = torch.cuda.get_device_capability()
        known["capability"] = 10 * major + minor
        what += f", {facts['gpu_memory'] / 2**30:.0f} GiB, compute capability {major}.{minor}, driver {facts['driver']}"
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "triton", "transformers", "python"))
    tell({**known, "text": f"{what}; {versions}"})


if __name__ == "__main__":
    main(sys.argv[1:])
