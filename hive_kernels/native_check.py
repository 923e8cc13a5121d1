"""What each kernel of the built CUDA library needs, from its machine code: registers, spills, tensor-core instructions.

``python -m hive_kernels.native_check [FILE]`` prints it for every GPU generation in the library, and exits with 1 if a
kernel spills or an attention kernel doesn't use tensor cores. Dynamic shared memory isn't in the file: that it fits is
asserted when csrc/ is compiled.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from hive_kernels import native, native_file
from hive_kernels.aot import Report, cuobjdump, resource_usage, table
from hive_kernels.command import exit_code


def reports(library: Path) -> list[Report]:
    """A report for each kernel and GPU generation."""
    usage = cuobjdump("--dump-resource-usage", library)
    code = cuobjdump("--dump-sass", library)
    tensor_core = {
        (capability, mangled): "mma" if "HMMA" in body else ""
        for capability, section in _sections(code, r"^\s*code for sm_(\d+)")
        for mangled, body in _sections(section, r"^\s*Function : (\S+)")
    }
    needs = {
        (capability, mangled): resource_usage(body)
        for capability, section in _sections(usage, r"^arch = sm_(\d+)")
        for mangled, body in _sections(section, r"^\s*Function (\w+):")
    }
    names = _demangle(sorted({mangled for _, mangled in needs}))
    kernels = [
        Report(
            names[mangled],
            int(capability),
            shared=need["SHARED"],
            registers=need["REG"],
            spilled=need["STACK"] + need["LOCAL"],
            tensor_core=tensor_core[capability, mangled],
        )
        for (capability, mangled), need in needs.items()
    ]
    return sorted(kernels, key=lambda report: (report.capability, report.name))


def _sections(text: str, heading: str) -> list[tuple[str, str]]:
    """For each heading, what its group matched and the text up to the next heading."""
    parts = re.split(heading, text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def _demangle(mangled: list[str]) -> dict[str, str]:
    """By mangled name, the kernel's name and its template arguments, as "attention_backward bf16, 64, 2, 4"."""
    listing = subprocess.run(["c++filt", "-p", *mangled], check=True, capture_output=True, text=True).stdout
    names = {}
    for symbol, line in zip(mangled, listing.splitlines(), strict=True):
        name = line.replace("hive::", "").replace("(anonymous namespace)::", "").replace("_kernel<", " ").rstrip("> ")
        for element, short in (("__half", "fp16"), ("__nv_bfloat16", "bf16"), ("float", "fp32"), ("Shape<", "")):
            name = name.replace(element, short)
        names[symbol] = name.removesuffix("_kernel")
    return names


def problem(report: Report) -> str:
    """Why the kernel isn't good enough, or nothing."""
    if report.problem:
        return report.problem
    return "no tensor cores" if report.name.startswith("attention") and not report.tensor_core else ""


def main(arguments: list[str] | None = None) -> int:
    """Prints what every kernel of the library needs; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hive_kernels.native_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "library", nargs="?", type=Path, default=native.FILE, metavar="FILE", help="%(default)s if left out"
    )
    library = parser.parse_args(arguments).library
    try:
        record = native_file.read(library)
    except ValueError as error:
        print(f"{error}; {native_file.BUILD['CUDA']}", file=sys.stderr)
        return 2
    kernels = reports(library)
    print(table(kernels))
    failed = [f"sm_{report.capability} {report.name}: {problem(report)}" for report in kernels if problem(report)]
    print("\n".join([*failed, f"{len(kernels)} kernels in {library.name}, {len(failed)} not good enough"]))
    print(f"built for {record.architectures} with the headers of torch {record.torch}")
    return 1 if failed or not kernels else 0


if __name__ == "__main__":
    try:
        sys.exit(exit_code(main))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{Path(error.cmd[0]).name} failed: {error.stderr.strip()}")
