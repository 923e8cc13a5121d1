"""The plan of ``make gpu``: its steps in the order of what they are worth, and the same on a CPU for a rehearsal.

Nothing here imports torch: the parent learns of the machine from its first child.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import ROOT
from benchmarks.gpu.plan import Step

REHEARSING = {"HIVE_REHEARSAL": "1", "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
"""Makes a child use the CPU, with Triton's interpreter, and tell no number."""
GIVEN = ("torch", "triton", "transformers", "numpy")
"""What the machine must have."""
CARRIED: Mapping[str, str] = {
    "tyro": "tyro",
    "docstring_parser": "docstring_parser",
    "typeguard": "typeguard",
    "typing_extensions": "typing_extensions",
    "rich": "rich",
    "markdown_it": "markdown-it-py",
    "mdurl": "mdurl",
    "pygments": "pygments",
    "PIL": "pillow",
}
"""What can be brought: by the module that is imported, the package. docs/gpu.md lists them and says how."""
ENGINE_TESTS = ("tensorboard", "matplotlib", "pyarrow")
"""What the tests of the engine need besides; without them these tests are skipped."""
SLOWER = 6
"""How many times as long a step of a rehearsal may take, on small shapes but few cores."""


def child(name: str, *arguments: str) -> tuple[str, ...]:
    """The command of a module in children/."""
    return (sys.executable, "-m", f"benchmarks.gpu.children.{name}", *arguments)


def machine(rehearsal: bool) -> Step:
    """The first step, which the others are planned from."""
    if rehearsal:
        return Step("machine", child("machine", "cpu"), limit=120, environment={"CUDA_VISIBLE_DEVICES": ""})
    return Step("machine", child("machine"), limit=120, alone=True)


def plan(facts: Mapping[str, Any], files: Path, fp32: bool, rehearsal: bool) -> list[Step]:
    """The steps behind the first one, whose row is ``facts``; names of further files begin with ``files``."""
    backends = ["triton"] if rehearsal else list(facts["checks"])  # the CUDA library runs on no CPU
    checks = [step for backend in backends for step in _checks(backend, facts, fp32 and not rehearsal)]
    passed = {backend: tuple(step.name for step in _checks(backend, facts, fp32=False)) for backend in backends}
    triton = {"triton": passed["triton"]}
    cores = facts["cores"] or 1
    steps = [
        Step("compile", child("compile", str(facts["capability"]), *(["--small"] if rehearsal else [])), limit=75),
        Step("build", child("build", str(facts["capability"])), limit=150),
        *checks,
        _tests("kernel tests", ["tests/kernels"], f"{files}-kernel-tests.xml", cores, limit=90),
        _measured("own kernels", child("kernels", "ours"), passed, limit=80, item_limit=15),
        _measured("peers", child("kernels", "ready"), {}, limit=40, item_limit=15),
        *(
            _measured(f"efficiency, stage {stage}", child("efficiency", str(stage)), triton, limit=75, item_limit=45)
            for stage in (2, 3)
        ),
        _measured("profile", child("profile"), triton, limit=50, item_limit=35),
        _tests("engine tests", _marked_for_a_gpu(), f"{files}-engine-tests.xml", cores, limit=40, needs=ENGINE_TESTS),
        _measured("compiled peers", child("kernels", "compiled"), {}, limit=30, item_limit=20),
        _measured("autotuned peers", child("kernels", "autotuned"), {}, limit=30, item_limit=30),
        Step("tuning", child("tune"), limit=float("inf"), needs=passed["triton"], alone=True),
    ]
    if not rehearsal:
        return steps
    return [_rehearsed(step) for step in steps if step.name != "build"]


def _checks(backend: str, facts: Mapping[str, Any], fp32: bool) -> list[Step]:
    """A step for each case of the backend's self-check, so that one that hangs or crashes takes no other along."""
    needs, after = (("build",), ()) if backend == "cuda" else ((), ("compile",))
    dtypes = [facts["dtypes"][backend], *(["float32"] if fp32 and backend == "triton" else [])]
    return [
        Step(
            f"check {backend} {case}" + (" in fp32" if dtype == "float32" else ""),
            child("check", backend, case, dtype),
            limit=40,
            needs=needs,
            after=after,
        )
        for dtype in dtypes
        for case in facts["checks"][backend]
    ]


def _marked_for_a_gpu() -> list[str]:
    """The files of the engine's tests that have one for a GPU; the others need more packages, only to be imported."""
    files = sorted((ROOT / "tests" / "hive").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "pytest.mark.gpu" in file.read_text(encoding="utf-8")]


def _tests(name: str, paths: list[str], junit: str, cores: int, limit: float, needs: Sequence[str] = ()) -> Step:
    """The tests that need a GPU and the modules ``needs``, on several processes where pytest-xdist is installed."""
    options = ["-m", "gpu", "--continue-on-collection-errors", "-rfE", "--tb=short"]
    options += ["-p", "benchmarks.gpu.children.pytest_rows", f"--junitxml={junit}"]
    if find_spec("xdist"):
        options += ["--numprocesses", str(max(1, min(4, cores // 2)))]
    lacking = [module for module in ("pytest", *needs) if find_spec(module) is None]
    missing = f"{' and '.join(lacking)} not installed" if lacking else ""
    command = (sys.executable, "-m", "pytest", *options, *paths)
    return Step(name, command, limit, after=("compile",), unavailable=missing)


def _measured(
    name: str, command: tuple[str, ...], without: Mapping[str, tuple[str, ...]], limit: float, item_limit: float
) -> Step:
    """A step beside which nothing runs, and which leaves out the backends whose checks did not pass."""
    return Step(name, command, limit, without=without, alone=True, item_limit=item_limit)


def _rehearsed(step: Step) -> Step:
    """The step on a CPU."""
    environment = dict(REHEARSING)
    if step.name == "compile":
        environment["TRITON_INTERPRET"] = "0"
    return replace(step, limit=step.limit * SLOWER, item_limit=step.item_limit * SLOWER, environment=environment)


def missing_options() -> list[str]:
    """What this machine lacks that some steps can do without, or are skipped without."""
    modules = {"pytest": "pytest", "xdist": "pytest-xdist", "hypothesis": "hypothesis"}
    modules |= {name: name for name in ENGINE_TESTS}
    programs = [program for program in ("gcc", "nvcc", "cmake") if shutil.which(program) is None]
    return [*(package for module, package in modules.items() if find_spec(module) is None), *programs]


def missing() -> list[str]:
    """The packages that a step needs and that this Python lacks, by the names to install them by."""
    needed = {**{name: name for name in GIVEN}, **CARRIED}
    return [package for module, package in needed.items() if find_spec(module) is None]
