"""The methods that are compared, each as a model with the same interface."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from hive.config import Config
from hive.cost.usual import UsualLlava
from hive.data.images import ImageSpec
from hive.data.text import Batch
from hive.model.build import Model, build_model
from hive.model.frozen_tower import FrozenTower

Method = Literal["hive", "hive-mlp", "hive-joint", "self-attention", "transformers"]
METHODS: dict[Method, str] = {
    "hive": "HIVE, cross-attention",
    "hive-mlp": "HIVE, plain MLP projector",
    "hive-joint": "HIVE, joint softmax",
    "self-attention": "self-attention, this engine",
    "transformers": "self-attention, transformers' LLaVA",
}
"""Each method's name in tables and figures."""
Subject = Model | UsualLlava


def configured(config: Config, method: Method) -> Config:
    """The recipe with the method's settings and no pretrained weights, which would change no cost."""
    plain = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, weights=None),
        language=dataclasses.replace(config.language, weights=None),
    )
    changes: dict[Method, dict[str, Any]] = {
        "hive": {"method": "hive", "fusion": "cross", "projector": "residual"},
        "hive-mlp": {"method": "hive", "fusion": "cross", "projector": "mlp"},
        "hive-joint": {"method": "hive", "fusion": "joint", "projector": "residual"},
        "self-attention": {"method": "self-attention"},
        "transformers": {"method": "self-attention"},
    }
    return dataclasses.replace(plain, **changes[method])


def build(config: Config, method: Method, backend: str) -> Subject:
    """The method's model with fresh weights in fp32 on the current default device.

    `backend` is that of this engine's models; transformers' LLaVA has none.
    """
    config = configured(config, method)
    if method != "transformers":
        return build_model(config, backend)
    torch.manual_seed(config.seed)
    return UsualLlava(config.vision, config.language)


def loss_of(model: Subject, parts: frozenset[str], dtype: torch.dtype) -> Callable[[Batch], Tensor]:
    """The loss of a stage that trains these parts, as the trainer computes it: a frozen tower runs as `FrozenTower`."""
    if isinstance(model, UsualLlava) or "tower" in parts:
        return model
    return partial(model, encode=FrozenTower(model.tower, dtype))


def spec_of(model: Subject) -> ImageSpec:
    """The size, resizing and normalisation of the images that the model's tower expects."""
    return model.spec if isinstance(model, UsualLlava) else model.tower.spec


def image_size(model: Subject) -> int:
    """Pixels along an image's side."""
    return spec_of(model).size


def vocab_size(model: Subject) -> int:
    """Tokens in the model's vocabulary."""
    return model.text.vocab_size if isinstance(model, UsualLlava) else model.language.shape.vocab_size
