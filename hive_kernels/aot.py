"""Compiles every Triton kernel and tile configuration for several GPU generations; no GPU is needed.

``python -m hive_kernels.aot [--arch 80,86,89,90,100,120] [--json FILE] [--only TEXT]`` prints, and writes as JSON, what
each needs: shared memory, registers, spilled bytes, tensor-core instructions. It exits with 1 when one doesn't compile,
doesn't fit in that GPU's shared memory or spills. Triton keeps what it has compiled in TRITON_CACHE_DIR, or
~/.triton/cache: where that folder outlasts a run, as a CI's cache, the next compiles only kernels that have changed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hive_kernels.backends import OPERATIONS
from hive_kernels.command import exit_code
from hive_kernels.compile_case import CompileCase

# Compute capability: bytes of shared memory that a block may use (CUDA programming guide, compute capabilities).
SHARED_MEMORY = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
TENSOR_CORE = {"wgmma": r"\bwgmma\.mma_async", "mma": r"\bmma\.sync", "tcgen05": r"\btcgen05\.mma"}


@dataclass(frozen=True)
class Report:
    """What one kernel needs at one tile configuration on one GPU generation."""

    name: str
    capability: int
    shared: int = 0
    """Bytes per block."""
    registers: int = 0
    """Per thread."""
    spilled: int = 0
    """Bytes of local memory per thread."""
    tensor_core: str = ""
    """The kinds of tensor-core instructions, or nothing."""
    error: str = ""

    @property
    def problem(self) -> str:
        """Why the tile can't be in a tile table, or nothing."""
        if self.error:
            return self.error
        if self.shared > SHARED_MEMORY[self.capability]:
            return f"needs {self.shared} bytes of shared memory, the GPU has {SHARED_MEMORY[self.capability]}"
        return f"spills {self.spilled} bytes" if self.spilled else ""


def cases(capability: int) -> Iterator[CompileCase]:
    """The ``compile_cases`` of every module that computes an operation with Triton."""
    functions = [operation.functions["triton"] for operation in OPERATIONS.values() if "triton" in operation.functions]
    for module in dict.fromkeys(function.__module__ for function in functions):
        yield from sys.modules[module].compile_cases(capability)


def compile_case(case: CompileCase, capability: int) -> Report:
    """Compiles the case and reports what its machine code needs, or the compiler's error."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(case.function, case.signature, {(k,): v for k, v in _by_position(case)}, case.attrs)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    try:
        kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:
        last = (str(error).strip().splitlines() or [""])[-1]
        return Report(case.name, capability, error=f"doesn't compile: {type(error).__name__}: {last}")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = resource_usage(cuobjdump("--dump-resource-usage", Path(file.name)))
    kinds = [kind for kind, pattern in TENSOR_CORE.items() if re.search(pattern, kernel.asm["ptx"])]
    return Report(
        case.name,
        capability,
        shared=kernel.metadata.shared,
        registers=usage["REG"],
        spilled=usage["STACK"] + usage["LOCAL"],
        tensor_core=" ".join(kinds),
    )


def _by_position(case: CompileCase) -> Iterator[tuple[int, Any]]:
    """The position and value of every constexpr argument."""
    for position, name in enumerate(case.signature):
        if case.signature[name] == "constexpr":
            yield position, case.constexprs[name]


def cuobjdump(option: str, file: Path) -> str:
    """What cuobjdump, which Triton includes, prints about a file of machine code."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return subprocess.run([tool, option, file], check=True, capture_output=True, text=True).stdout


def resource_usage(listing: str) -> dict[str, int]:
    """REG, and STACK, LOCAL, SHARED in bytes, of the first function in cuobjdump's listing."""
    return {name: int(re.findall(rf"\b{name}:(\d+)", listing)[0]) for name in ("REG", "STACK", "LOCAL", "SHARED")}


def _compile_share(capability: int, share: int, shares: int, only: str) -> list[Report]:
    """Compiles every ``shares``-th case, from ``share`` on.

    A worker lists the cases itself, since a kernel can't be sent to another process.
    """
    chosen = [case for case in cases(capability) if only in case.name]
    return [compile_case(case, capability) for case in chosen[share::shares]]


def table(reports: list[Report]) -> str:
    """The reports as text, one a line under a heading."""
    width = max((len(r.name) for r in reports), default=4)
    lines = [f"{'sm':>4}  {'kernel':{width}}  shared KB  registers  spilled  tensor cores"]
    for r in reports:
        row = f"{r.capability:4}  {r.name:{width}}  {r.shared / 1024:9.1f}  {r.registers:9}  {r.spilled:7}  "
        lines.append(row + (r.tensor_core or "-") + (f"   {r.problem}" if r.problem else ""))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hive_kernels.aot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--arch", default=",".join(map(str, SHARED_MEMORY)), help="compute capabilities, as in 86,90")
    parser.add_argument("--json", type=Path, help="file to write the reports to")
    parser.add_argument("--only", default="", help="only kernels whose name contains this")
    parser.add_argument("--jobs", type=int, default=2, help="processes; 2 by default")
    options = parser.parse_args(arguments)
    try:
        capabilities = [int(number) for number in options.arch.split(",")]
    except ValueError:
        capabilities = [0]
    if not set(capabilities) <= set(SHARED_MEMORY):
        parser.error(f"--arch is {options.arch}; allowed: some of {','.join(map(str, SHARED_MEMORY))}")
    os.environ.pop("TRITON_INTERPRET", None)  # workers import triton afresh, and it can't compile for its interpreter
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        shares = [
            pool.submit(_compile_share, capability, share, options.jobs, options.only)
            for capability in capabilities
            for share in range(options.jobs)
        ]
        reports = sorted((r for share in shares for r in share.result()), key=lambda r: (r.capability, r.name))
    print(table(reports))
    if options.json:
        options.json.write_text(json.dumps([asdict(r) | {"problem": r.problem} for r in reports], indent=1) + "\n")
    failed = sum(bool(r.problem) for r in reports)
    print(f"{len(reports)} compiled, {failed} not usable")
    return 1 if failed or not reports else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
