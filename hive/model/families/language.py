"""What the engine needs to know about a family of language models."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hive.config import LanguageConfig, LanguageFamilyName

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of each token's position, [T, 1, d] each."""
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of packed texts: query [T, Hq, d], key and value [T, Hkv, d] to [T, Hq, d]."""


@dataclass(frozen=True)
class LanguageParts:
    """The modules of a causal language model that the engine runs."""

    embedding: nn.Embedding
    rotary: nn.Module
    """(hidden, positions [1, T]) to cosines and sines, [1, T, d] each."""
    layers: nn.ModuleList
    norm: nn.Module
    """After the last layer."""
    head: nn.Linear
    """Without a bias; its weight may be the embedding's."""


@dataclass(frozen=True)
class AttentionParts:
    """The modules of a decoder layer's self-attention, whose weights cross-attention starts from."""

    head_dim: int
    norm: nn.Module
    """Before the projections."""
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear


@dataclass(frozen=True)
class LanguageFamily:
    """How transformers' models of a family are read, made and run.

    "Settings" are transformers' configuration of the model.
    """

    name: LanguageFamilyName
    title: str
    """The name in sentences such as "give a ..."."""
    model_class: type[PreTrainedModel]
    readers: Mapping[str, Callable[[dict[str, Any], str], PreTrainedConfig]]
    """By the model_type of a config.json, a function that makes the settings from its content.

    The function's second argument names the file in the `UserError` that it raises if the content lacks something.
    """

    to_settings: Callable[[LanguageConfig], PreTrainedConfig]
    """The settings of a fresh model of the configured shape."""
    sizes: Callable[[PreTrainedConfig], dict[str, Any]]
    """The inverse of `to_settings`: the fields of `LanguageConfig` that describe the shape."""

    parts: Callable[[PreTrainedModel], LanguageParts]
    attention_parts: Callable[[nn.Module], AttentionParts]
    """The modules of a decoder layer's self-attention."""
    decoder_layer: Callable[[Tensor, nn.Module, Rotary, Attend], Tensor]
    """The output [T, D] of a decoder layer for hidden states [T, D] of packed texts.

    It calls `attend` once, with rotated queries and keys; `attend` decides which tokens each query sees.
    """

    unread: str = r"rotary_emb\.inv_freq$"
    """Pattern of the weights in a checkpoint that the model class has no place for and needs none."""

    def described(self, config: LanguageConfig, settings: PreTrainedConfig) -> LanguageConfig:
        """`config` with the family and the shape of the settings."""
        return dataclasses.replace(config, family=self.name, **self.sizes(settings))
