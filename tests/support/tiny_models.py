"""Models and batches small enough to check by other means."""

from dataclasses import replace

import torch

from hive.config import Config, LanguageConfig, VisionConfig
from hive.data.text import Batch, pack
from hive.model.build import Model, build_model
from hive.model.hive import HiveModel

VISION = VisionConfig(image_size=16, patch_size=8, hidden_size=16, layers=4, heads=2, mlp_size=32, density=0.5)
LANGUAGE = LanguageConfig(hidden_size=24, layers=5, heads=6, kv_heads=2, mlp_size=40, vocab_size=50)
TINY = Config(vision=VISION, language=LANGUAGE, seed=3)
JOINT = replace(TINY, fusion="joint")
BASELINE = replace(TINY, method="self-attention")


def tiny_model(config: Config = TINY, backend: str = "torch") -> Model:
    """The configuration's model with every gate open, so that images matter from the start."""
    model = build_model(config, backend)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(0.7)
            elif parameter.ndim == 1 and "norm" not in name:
                parameter.normal_(std=0.1)  # biases that a fresh model has at 0
    return model


def tiny_hive(config: Config = TINY, backend: str = "torch") -> HiveModel:
    """`tiny_model` where the method is HIVE."""
    model = tiny_model(config, backend)
    assert isinstance(model, HiveModel)
    return model


def tiny_batch(lengths: tuple[int, ...] = (3, 5, 2), seed: int = 0) -> Batch:
    """Texts of these many tokens, BOS not counted, each with an image."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for length in lengths:
        image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator)
        samples.append((image, torch.randint(0, 50, (length + 1,), generator=generator).tolist()))
    return pack(samples)
