"""The frozen tower's forms: the time of each, and how it changes the features and the loss."""

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hive.config import Config, FrozenPrecision
from hive.cost.cases import random_batch
from hive.cost.methods import build, configured
from hive.efficiency.machine import seconds
from hive.errors import UserError
from hive.model.frozen_tower import FrozenTower, feature_errors
from hive.model.hive import HiveModel
from hive_kernels.validation import without_autocast


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to run a tower that doesn't train."""

    name: str
    milliseconds: float
    """Median time of a forward pass."""
    images_per_second: float
    feature_error: float
    """|features - exact| / |exact|, the largest over the selected states; exact are those of the fp32 tower."""
    loss_change: float
    """Change of the caption loss, nats a token, on noise and with fresh weights."""


def compare_forms(
    config: Config, samples: int, device: torch.device, backend: str, runs: int
) -> tuple[list[Form], list[str]]:
    """Returns every form that can run on the device, measured, and a sentence for each that can't."""
    settings = dataclasses.replace(configured(config, "hive"), gate=False)  # a fresh gate would keep the image out
    with torch.device(device):
        model = build(settings, "hive", backend)
    assert isinstance(model, HiveModel)
    batch = random_batch((16,) * samples, model).to(device)
    with torch.no_grad(), without_autocast(device):
        exact = model.tower(batch.pixels)
    measured, missing = [], []
    for form, make in _make_forms(model, device).items():
        try:
            encode = make()
        except UserError as error:
            missing.append(f"frozen tower, {form}: {error}")
            continue
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            exact_loss = model(batch, encode=lambda pixels: exact).item()
            features = encode(batch.pixels)
            loss = model(batch, encode=lambda pixels, features=features: features).item()
            taken = [seconds(partial(encode, batch.pixels), device) for _ in range(runs + 1)][1:]
        median = statistics.median(taken)
        change = (loss - exact_loss) / batch.token_count
        measured.append(
            Form(form, 1000 * median, samples / median, feature_errors(features, exact).max().item(), change)
        )
    return measured, missing


def _make_forms(model: HiveModel, device: torch.device) -> dict[str, Callable[[], Callable[[Tensor], Tensor]]]:
    """Returns by name what makes each form's function from pixels to features; it may raise `UserError`."""
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32

    def frozen(precision: FrozenPrecision, compiled: bool) -> Callable[[Tensor], Tensor]:
        return FrozenTower(model.tower, dtype, precision, compiled=compiled)

    forms: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "transformers' layers": lambda: model.tower,
        "fused projections, weights cast once": lambda: frozen("autocast", False),
    }
    if on_gpu:
        forms["the same, compiled"] = lambda: frozen("autocast", True)
    forms["int8"] = lambda: frozen("int8", on_gpu)
    forms["fp8"] = lambda: frozen("fp8", on_gpu)
    return forms
