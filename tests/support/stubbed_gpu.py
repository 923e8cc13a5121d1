"""A process whose Triton has a GPU that compiles and loads kernels, but computes nothing: real tensors on a CPU.

``python -m tests.support.stubbed_gpu`` compiles the launches of two training steps ahead of time, then takes such steps
on tensors with data, through Triton's own launcher up to the driver. It prints as JSON what Triton's cache answered to
every launch, and to one of another dtype, which nobody compiled; and what the self-check would launch.
"""

import json
from collections.abc import Callable
from importlib import import_module

import torch

from benchmarks.gpu.children import compile as children
from hive.cost.cases import random_batch
from hive.cost.methods import build, configured, loss_of
from hive.recipes import load_recipe
from hive.stages import enter_stage, trained_parts
from hive_kernels import gated_residual, launch, precompile

CAPABILITY = 90


class StubbedDriver(precompile.Target):
    """What Triton asks a driver for when it launches; kernels are loaded nowhere and do nothing."""

    def __init__(self) -> None:
        super().__init__(CAPABILITY)
        self.utils = self

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}

    def load_binary(self, *_: object) -> tuple[int, ...]:
        return (1, 1, 0, 0, 1024)

    def launcher_cls(self, source: object, metadata: object) -> Callable[..., None]:
        return lambda *_: None


def train() -> None:
    """A step of stages 2 and 3 of the demo in bf16, as compile.py has it, on real tensors."""
    config = configured(load_recipe("demo"), "hive")
    model = build(config, "hive", "triton")
    for stage in (2, 3):
        parts = trained_parts(config, stage)
        enter_stage(model, parts)
        loss_of_batch = loss_of(model, parts, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of_batch(random_batch((5, 5), model))
        loss.backward()


def gate_in_fp16() -> None:
    x = torch.randn(70, 96, dtype=torch.float16)
    gated_residual(x, x, torch.zeros(1), backend="triton")


def answers(work: Callable[[], object]) -> list[tuple[str, bool]]:
    """(kernel, whether it was in the cache) of each launch that Triton had to look up."""
    from triton import knobs

    seen: list[tuple[str, bool]] = []
    with knobs.compilation.scope(), launch.targeting(CAPABILITY):
        knobs.compilation.listener = lambda *, src, cache_hit, **_: seen.append((src.name, cache_hit))
        work()
    return seen


def constants(each: precompile.Launch) -> dict[str, object]:
    """The kernel's name and its constants, by argument."""
    told = json.loads(each.specialization)
    kernel = vars(import_module(each.module))[each.kernel]
    names = [kernel.arg_names[position] for (position,) in told["constant_keys"]]
    return {"kernel": each.kernel, **dict(zip(names, told["constant_vals"], strict=True))}


def main() -> None:
    from triton.runtime import driver

    launches = precompile.record(CAPABILITY, children.training("demo", (5,), 2))
    result: dict[str, object] = {
        "self-check": [constants(each) for each in precompile.record(CAPABILITY, children.checks)],
        "compiled": [each.error or each.kernel for each in precompile.compile_all(CAPABILITY, launches, 1)],
    }
    driver.set_active(StubbedDriver())
    print(json.dumps(result | {"training": answers(train), "another dtype": answers(gate_in_fp16)}))


if __name__ == "__main__":
    main()
