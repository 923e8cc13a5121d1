"""8-bit matrix products for modules that only run forward, by torchao's dynamic quantisation.

Weights are rounded once, with one scale per output channel; activations at every call, with one scale per token.
"""

from typing import Any, Literal

import torch
from torch import nn

from hive.errors import UserError
from hive.model.vision import VisionTower

EightBit = Literal["fp8", "int8"]
FLAG = "--vision.frozen-precision"
LOWEST_CAPABILITY = {"fp8": (8, 9), "int8": (8, 0)}  # Ada and Hopper; Ampere
MULTIPLE = 16  # torchao leaves a weight of other sizes unrounded in fp8, and multiplies it on the host in int8


def check_eight_bit(precision: EightBit, tower: VisionTower, compiled: bool) -> None:
    """Raises `UserError` if the tower's layers can't run in 8 bits on their device or torchao is missing."""
    problem = _problem(precision, tower, compiled)
    if problem is not None:
        raise UserError(f"{FLAG} {precision} {problem}, or leave the flag out.")
    _torchao(precision)


def _problem(precision: EightBit, tower: VisionTower, compiled: bool) -> str | None:
    """The end of a sentence that begins with the flag: why it can't run, and what to do; None if it can."""
    indivisible = [width for width in (tower.width, tower.shape.mlp_size) if width % MULTIPLE]
    if indivisible:
        return f"needs widths that {MULTIPLE} divides, but the tower has one of {indivisible[0]}: take another tower"
    device = tower.mean.device
    if device.type == "cpu":
        return "needs a GPU, and this run is on a CPU: use int8" if precision == "fp8" else None
    if device.type != "cuda":
        known = "NVIDIA GPUs and CPUs" if precision == "int8" else "NVIDIA GPUs"
        return f"runs on {known}, and this run is on {device.type}: take another --device"
    lowest, capability = LOWEST_CAPABILITY[precision], torch.cuda.get_device_capability(device)
    if capability < lowest:
        needed, given = (".".join(map(str, version)) for version in (lowest, capability))
        return f"needs a GPU of compute capability {needed} or above, and this one has {given}: use another GPU"
    # Uncompiled, torchao's int8 product synchronises the GPU at every call, and in both precisions rounding the
    # activations takes a separate pass over them.
    return None if compiled else "needs --compile on a GPU: add it"


def quantize(module: nn.Module, precision: EightBit) -> None:
    """Rounds the weight of every `nn.Linear` in the module, in place."""
    torchao = _torchao(precision)
    # set_inductor_config would also change how the rest of the run is compiled
    options = {"granularity": torchao.quantization.PerRow(), "set_inductor_config": False}
    if precision == "fp8":
        config = torchao.quantization.Float8DynamicActivationFloat8WeightConfig(**options)
    else:
        # 7 bits on a CPU without VNNI, whose products of 8 overflow 16 bits
        narrow = torchao.utils.should_reduce_range(next(module.parameters()).device)
        config = torchao.quantization.Int8DynamicActivationInt8WeightConfig(**options, reduce_range=narrow)
    torchao.quantization.quantize_(module, config)


def _torchao(precision: EightBit) -> Any:
    try:
        import torchao
        import torchao.quantization
        import torchao.utils
    except ImportError as error:
        raise UserError(how_to_get_torchao(precision)) from error
    return torchao


def how_to_get_torchao(precision: EightBit) -> str:
    """The sentence that tells a user without torchao how to install it."""
    return (
        f'{FLAG} {precision} needs torchao 0.18 or above: pip install --no-deps "torchao>=0.18", or leave the flag out.'
    )
