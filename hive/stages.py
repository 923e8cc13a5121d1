"""What a stage trains, and for how many steps (paper, sections 3.5 and 7)."""

from collections.abc import Iterable
from typing import Any, Protocol

from torch import nn

from hive.config import Config, RunConfig
from hive.data.order import steps


def stage_steps(config: RunConfig, stage: int, pairs: int) -> int:
    """Optimiser steps of a stage over this many training pairs."""
    schedule = config.schedule(stage)
    whole = steps(schedule.epochs, pairs, schedule.batch_size)
    return min(whole, config.max_steps) if config.max_steps else whole


def trained_parts(config: Config, stage: int) -> frozenset[str]:
    """Names in `model.parts()` of the parts that a stage of pre-training trains."""
    if stage == 1:
        return frozenset({"projector"} if config.fusion == "joint" else config.stage1.split("+"))
    return frozenset({"projector", "fusion", "language"} | ({"tower"} if stage == 3 else set()))


class Trainable(Protocol):
    """A model whose parameters are grouped into named parts."""

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that a loss can reach, by the part's name."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """As `nn.Module.requires_grad_`."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """As `nn.Module.named_parameters`."""


def enter_stage(model: Trainable, parts: frozenset[str]) -> dict[str, nn.Parameter]:
    """Sets `requires_grad` on the parameters of exactly the named parts, and returns these by name."""
    model.requires_grad_(False)
    for name, parameters in model.parts().items():
        for parameter in parameters:
            parameter.requires_grad_(name in parts)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
