"""Towers and image sets that take milliseconds."""

from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from hive.probe.datasets.images import ClassificationSet, assemble, from_array

SHAPE: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
"""Of either family's configuration in transformers."""


def tiny_tower(family: str = "clip", seed: int = 0) -> CLIPVisionModel | SiglipVisionModel:
    torch.manual_seed(seed)
    if family == "clip":
        return CLIPVisionModel(CLIPVisionConfig(**SHAPE)).eval()
    return SiglipVisionModel(SiglipVisionConfig(**SHAPE)).eval()


def shades(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(noisy images [n, 16, 16, 3], classes): dark, green or bright, which any tower can tell."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    base = np.array([[20, 20, 20], [40, 220, 40], [230, 230, 230]])[labels]
    pixels = base[:, None, None] + random.integers(-20, 20, (count, 16, 16, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), labels.astype(np.int64)


def shade_set() -> ClassificationSet:
    return assemble(
        "shades", ["dark", "green", "bright"], from_array(*shades(60, 0), "a"), from_array(*shades(30, 1), "b")
    )
