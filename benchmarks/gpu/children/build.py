"""Builds the CUDA C++ backend for one GPU generation, which needs nvcc and CMake but no GPU: ``build.py 90``."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.gpu.child import ROOT
from benchmarks.gpu.rows import tell
from hive_kernels import native, native_file


def main(arguments: list[str]) -> int:
    """Runs CMake unless there is a library of today's sources for this GPU; returns the exit code."""
    (capability,) = arguments
    reason = native_file.reason_to_build(native.FILE, (int(capability[:-1]), int(capability[-1])))
    if reason is None:
        tell({"text": f"{native.FILE.name} is there already"})
        return 0
    missing = [program for program in ("nvcc", "cmake", "c++") if shutil.which(program) is None]
    if missing:
        tell({"skipped": f"{' and '.join(missing)} not on the PATH ({reason})"})
        return 0
    options = [f"-DHIVE_CUDA_ARCHITECTURES={capability}", f"-DHIVE_TORCH={Path(torch.__file__).parent}"]
    for command in (
        ["cmake", "-S", ".", "-B", "build/native", *options],
        ["cmake", "--build", "build/native", "--parallel", "8"],
        ["cmake", "--install", "build/native", "--prefix", "."],
    ):
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            tell({"fault": f"{' '.join(command[:2])} failed with exit code {code}"})
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
