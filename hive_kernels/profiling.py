"""NVTX ranges around kernel launches, for Nsight Systems; off unless asked for."""

from contextlib import AbstractContextManager, nullcontext

import torch

_enabled = False


def enable(on: bool = True) -> None:
    """Turns the ranges of launches on or off from now on."""
    global _enabled
    _enabled = on


def span(name: str) -> AbstractContextManager[None]:
    """A range called ``hive_kernels.<name>`` when profiling is on; costs a comparison when it is off."""
    return torch.cuda.nvtx.range(f"hive_kernels.{name}") if _enabled else nullcontext()
