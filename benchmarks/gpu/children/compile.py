"""Compiles what the later steps launch, in parallel, into Triton's cache: ``compile.py CAPABILITY [--small]``.

In the order in which it is needed: the self-check, training, benchmarks. It makes no CUDA context.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks import cases, peers
from benchmarks.cases import Case
from benchmarks.gpu.rows import tell
from benchmarks.measure import backward
from hive.cost.cases import empty_batch
from hive.cost.methods import build, configured, loss_of
from hive.cost.simulate import materialise
from hive.recipes import load_recipe
from hive.stages import enter_stage, trained_parts
from hive_kernels import precompile, selfcheck
from hive_kernels.testing import with_gradients

RECIPE, TEXT_TOKENS, SAMPLES = "siglip-l-384-mobilellm-350m", (16, 77), 32
CPU = torch.device("cpu")


def checks() -> None:
    """The self-check in bf16."""
    for case in selfcheck.cases("triton"):
        tensors = [torch.empty(shape, dtype=torch.bfloat16) for shape in case.shapes]
        with_gradients(case.operation, tensors, "triton")


def training(recipe: str, text_tokens: Sequence[int], samples: int) -> Callable[[], None]:
    """A step of stages 2 and 3 of HIVE in bf16, for captions of each length."""
    config = configured(load_recipe(recipe), "hive")
    with torch.device("meta"):
        model = build(config, "hive", "triton")

    def steps() -> None:
        materialise(model)
        for stage in (2, 3):
            parts = trained_parts(config, stage)
            enter_stage(model, parts)
            loss_of_batch = loss_of(model, parts, torch.bfloat16)
            for tokens in text_tokens:
                batch = empty_batch((tokens,) * samples, model).map(lambda x: torch.empty_like(x, device=CPU))
                with torch.autocast(CPU.type, torch.bfloat16):
                    loss = loss_of_batch(batch)
                loss.backward()

    return steps


def benchmarks(chosen: Sequence[Case]) -> None:
    """A pass of every case that Triton computes, in bf16."""
    for case in chosen:
        for peer in peers.select_peers(case, CPU):
            if peer.name.startswith("hive triton"):
                inputs = [torch.empty(shape, dtype=torch.bfloat16) for shape in case.shapes()]
                run = peer.build(case, inputs, torch.empty(case.output_shape(), dtype=torch.bfloat16))
                backward(run, run.forward())


def main(arguments: Sequence[str]) -> int:
    """Tells a row for each kernel that was compiled; returns the exit code."""
    capability, small = int(arguments[0]), "--small" in arguments
    start = time.perf_counter()
    recipe, text_tokens, samples = ("demo", (5,), 2) if small else (RECIPE, TEXT_TOKENS, SAMPLES)
    works: list[Callable[[], object]] = [
        checks,
        training(recipe, text_tokens, samples),
        partial(benchmarks, cases.small() if small else cases.full()),
    ]
    launches = list(dict.fromkeys(launch for work in works for launch in precompile.record(capability, work)))
    failed, jobs = 0, min(16, os.cpu_count() or 1)
    for done in precompile.compile_all(capability, launches, jobs):
        failed += bool(done.error)
        tell({"kernel": done.kernel, "seconds": done.seconds} | ({"fault": done.error} if done.error else {}))
    text = f"{len(launches) - failed} launches for sm_{capability}, "
    text += f"{time.perf_counter() - start:.0f} s in {jobs} processes"
    tell({"text": text + ("" if precompile.has_driver() else "; not what launches them, which needs libcuda")})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
