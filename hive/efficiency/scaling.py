"""How cost grows: along one axis at a time, everything else at the recipe's value."""

import dataclasses
import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import torch

from hive.config import Config
from hive.cost.cases import random_batch
from hive.cost.flops import step_flops
from hive.cost.methods import Method, build, configured
from hive.cost.simulate import simulate
from hive.efficiency.compare import on_meta, stage_shape
from hive.efficiency.machine import is_out_of_memory
from hive.efficiency.measure import measure
from hive.recipes import LLAMA_1B, MOBILELLM_350M
from hive.stages import trained_parts

COMPARED: tuple[Method, ...] = ("hive", "self-attention")
STAGE = 2
SAMPLES, TOKENS = 8, 77
DENSITY = "share of the tower's layers read, %"
MOBILELLM_125M = dataclasses.replace(MOBILELLM_350M, hidden_size=576, layers=30, heads=9, kv_heads=3, mlp_size=1536)
MOBILELLM_600M = dataclasses.replace(MOBILELLM_350M, hidden_size=1152, layers=40, heads=18, kv_heads=6, mlp_size=3072)
LANGUAGE_MODELS = (MOBILELLM_125M, MOBILELLM_350M, MOBILELLM_600M, LLAMA_1B)


@dataclasses.dataclass(frozen=True)
class Point:
    """The cost of a step of stage 2 at one place of an axis."""

    axis: str
    at: float
    method: Method
    tower: float
    """FLOPs a sample."""
    language_side: float
    """FLOPs a sample of projector, fusion, language model and head."""
    peak: int | None
    """Bytes, simulated; None where no layer is read."""
    seconds: float | None = None
    """Seconds of a step, measured."""


@dataclasses.dataclass(frozen=True)
class _Place:
    """A value `at` of one axis, with the configuration and the batch that it stands for."""

    axis: str
    at: float
    config: Config
    samples: int = SAMPLES
    tokens: int = TOKENS


def places(config: Config, *, small: bool) -> list[_Place]:
    """Returns the places of all axes; with `small`, those that a CPU can run."""
    patch, layers = config.vision.patch_size, config.vision.layers
    axis_places = [
        _Place("visual tokens", side**2, _with_vision(config, image_size=side * patch))
        for side in ((4, 6, 8, 12) if small else (16, 24, 32, 48, 64, 96))
    ]
    lengths = (8, 16, 32, 64) if small else (8, 16, 32, 77, 128, 256, 512)
    axis_places += [_Place("text tokens", tokens, config, tokens=tokens) for tokens in lengths]
    axis_places += [
        _Place(DENSITY, 100 * share, _with_vision(config, selection="uniform", density=share))
        for share in (0.0, 1 / layers, 0.25, 0.5, 0.75, 1.0)
    ]
    sizes = (1, 2, 4, 8) if small else (1, 2, 4, 8, 16, 32, 64)
    axis_places += [_Place("samples a micro-batch", samples, config, samples=samples) for samples in sizes]
    axis_places = [
        place for place in axis_places if place.at / 100 * layers <= config.language.layers or place.axis != DENSITY
    ]
    if not small:
        for language in LANGUAGE_MODELS:
            at = dataclasses.replace(config, language=dataclasses.replace(language, weights=None))
            axis_places.append(_Place("language model, million parameters", _count_millions(at), at))
    return axis_places


def _with_vision(config: Config, **vision: Any) -> Config:
    return dataclasses.replace(config, vision=dataclasses.replace(config.vision, **vision))


def _count_millions(config: Config) -> float:
    """Returns the language model's parameters, in millions."""
    return sum(parameter.numel() for parameter in on_meta(config, "self-attention").parts()["language"]) / 1e6


def points(place: _Place, device: str) -> list[Point]:
    """Returns the cost of both methods at a place, without seconds; in fp32 for a CPU, else in bf16."""
    results = []
    for method in COMPARED:
        settings, parts, lengths = _make_case(place, method)
        model = on_meta(settings, method)
        costs = {name: cost.total for name, cost in step_flops(model, parts, place.samples, lengths).items()}
        if _is_text_alone(place):
            if method == "hive":
                text = (costs["language"] + costs["head"]) / place.samples
                results.append(Point(place.axis, 0, method, 0, text, None))
            continue
        precision = torch.float32 if device == "cpu" else torch.bfloat16
        (step,) = simulate(model, [stage_shape(settings, model, STAGE, lengths)], precision)
        tower, total = costs["tower"] / place.samples, sum(costs.values()) / place.samples
        results.append(Point(place.axis, place.at, method, tower, total - tower, step.peak))
    return results


def time_point(place: _Place, point: Point, device: torch.device, backend: str) -> Point:
    """Returns the point with its step's seconds; unchanged where the step does not fit, or no layer is read."""
    if _is_text_alone(place):
        return point
    settings, parts, lengths = _make_case(place, point.method)
    with torch.device(device):
        model = build(settings, point.method, backend)
    batch = random_batch(lengths, model)
    batches = cycle([batch.pin_memory() if device.type == "cuda" else batch])
    try:
        measured = measure(model, parts, settings.schedule(STAGE), batches, device, runs=3, steps_a_run=1)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return point
    return dataclasses.replace(point, seconds=measured.median)


def _is_text_alone(place: _Place) -> bool:
    """Whether no layer is read: then only the text is left, which the baseline can't do."""
    return place.axis == DENSITY and place.at == 0


def _make_case(place: _Place, method: Method) -> tuple[Config, frozenset[str], tuple[int, ...]]:
    config = configured(_with_vision(place.config, density=0.25) if _is_text_alone(place) else place.config, method)
    return config, trained_parts(config, STAGE), (place.tokens,) * place.samples


def exponent(at: Sequence[float], cost: Sequence[float]) -> float:
    """Returns the p of cost ~ at^p: the slope of a least-squares line through the logarithms."""
    x, y = [math.log(value) for value in at], [math.log(value) for value in cost]
    middle, height = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)
    return round(slope, 9) + 0.0  # rounding may give a constant the slope -0.0
