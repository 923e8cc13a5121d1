"""HIVE_BUILD_CUDA=1 also builds the CUDA C++ backend (CMakeLists.txt); all else is in pyproject.toml.

Nothing is fetched and torch is not imported: its headers are read where it is installed beside this Python, which a
build in isolation sees too, or in the folder that HIVE_TORCH names. HIVE_CUDA_ARCHITECTURES is CMake's option.
"""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

LIBRARY = Path("hive_kernels", "lib", "libhive_kernels_cuda.so")


class CMakeBuild(build_ext):
    """Runs CMake, and installs the library into the wheel, or for an editable install into the source tree."""

    def run(self) -> None:
        for program, remedy in (("cmake", "pip install cmake"), ("nvcc", "install the CUDA toolkit, 12.8 or later")):
            if shutil.which(program) is None:
                raise SystemExit(f"HIVE_BUILD_CUDA=1 needs {program}, which is not on the PATH: {remedy}.")
        build = Path(self.build_temp).absolute() / "cuda"
        torch = os.environ.get("HIVE_TORCH", str(Path(sysconfig.get_path("platlib"), "torch")))
        options = [f"-DHIVE_TORCH={torch}"]
        if "HIVE_CUDA_ARCHITECTURES" in os.environ:
            options.append(f"-DHIVE_CUDA_ARCHITECTURES={os.environ['HIVE_CUDA_ARCHITECTURES']}")
        prefix = Path() if self.editable_mode or self.inplace else Path(self.build_lib)
        for command in (
            ["cmake", "-S", ".", "-B", build, *options],
            ["cmake", "--build", build, "--parallel", "2"],
            ["cmake", "--install", build, "--prefix", prefix.absolute()],
        ):
            if subprocess.call(command) != 0:
                raise SystemExit("HIVE_BUILD_CUDA=1: CMake failed; what it said is above.")

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib, LIBRARY))]

    def get_output_mapping(self) -> dict[str, str]:
        return {str(Path(self.build_lib, LIBRARY)): str(LIBRARY)}


class WheelForEveryPython(bdist_wheel):
    """The library is used through torch's stable ABI and knows no Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def build_cuda(value: str) -> bool:
    """What HIVE_BUILD_CUDA says."""
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("", "0", "false", "no", "off"):
        return False
    raise SystemExit(f"HIVE_BUILD_CUDA is {value!r}; allowed: 1, true, yes or on, and 0, false, no, off or nothing.")


if not build_cuda(os.environ.get("HIVE_BUILD_CUDA", "")):
    setup()
else:
    setup(
        ext_modules=[Extension("hive_kernels.lib.libhive_kernels_cuda", [])],
        cmdclass={"build_ext": CMakeBuild, "bdist_wheel": WheelForEveryPython},
    )
