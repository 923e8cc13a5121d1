"""What the engine needs to know about a family of vision towers."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hive.config import TowerConfig, TowerFamilyName
from hive.data.images import ImageSpec

BICUBIC = 3  # PIL's number, which preprocessor_config.json has
SIZES: Mapping[str, str] = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_size": "intermediate_size",
}
"""`TowerConfig`'s names of the sizes, and transformers' usual ones."""


@dataclass(frozen=True)
class TowerParts:
    """The modules of a tower that the engine runs."""

    embeddings: nn.Module
    """Normalised images [B, 3, H, W] to [B, class token + N, Dv], positions included."""
    patch_projection: str
    """Name in `embeddings` of the module that makes patches into tokens."""
    first_norm: nn.Module
    """Between the embeddings and the first layer; `nn.Identity` where there is none."""
    layers: nn.ModuleList

    def parameters(self, hidden_state: int) -> Iterator[nn.Parameter]:
        """The parameters that a hidden state depends on: 0 = embeddings, k = output of layer k."""
        for module in (self.embeddings, self.first_norm, *self.layers[:hidden_state]):
            yield from module.parameters()


@dataclass(frozen=True)
class EncoderLayerParts:
    """An encoder layer's modules: x + output(attention(norm1(x))), then x + fc2(activation(fc1(norm2(x)))).

    A family that scales its branches multiplies the factors into `output` and `fc2`.
    """

    heads: int
    norm1: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    norm2: nn.Module
    fc1: nn.Linear
    activation: nn.Module
    fc2: nn.Linear


@dataclass(frozen=True)
class TowerFamily:
    """How transformers' models of a family are read, made, run and exported.

    "Settings" are transformers' configuration of the tower.
    """

    name: TowerFamilyName
    title: str
    """The name in sentences."""
    model_class: type[PreTrainedModel]
    settings_class: type[PreTrainedConfig]
    whole_model_type: str | None
    """model_type of the models that hold such a tower, with its settings in `vision_config`."""

    to_settings: Callable[[TowerConfig], PreTrainedConfig]
    """The settings of a fresh tower of the configured shape."""
    sizes: Callable[[PreTrainedConfig], dict[str, Any]]
    """The inverse of `to_settings`: the sizes in `TowerConfig`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["crop", "square"]
    """How images are prepared: channels' mean and deviation in 0..1, and `ImageSpec.resize`."""
    processor: Callable[[ImageSpec], dict[str, Any]]
    """The content of preprocessor_config.json for images that are prepared in this way."""

    class_tokens: int
    """Class tokens in front of the patch tokens, 0 or 1."""
    pools_by_attention: bool
    """Whether the whole model ends in an attention pooling head, whose keys and values of every token cost FLOPs."""
    parts: Callable[[PreTrainedModel], TowerParts]
    run_layer: Callable[[nn.Module, Tensor], Tensor]
    """The output of transformers' encoder layer for its input, both [B, class token + N, Dv]."""
    layer_parts: Callable[[nn.Module], EncoderLayerParts]
    """The layer's modules, of which `FrozenTower` builds a faster layer."""

    export_prefix: str
    """Prefix of an exported weight's name with which every supported version of transformers finds it."""

    def described(self, config: TowerConfig, settings: PreTrainedConfig) -> TowerConfig:
        """`config` with the family and the sizes of the settings."""
        return dataclasses.replace(config, family=self.name, **self.sizes(settings))

    def image_spec(self, size: int) -> ImageSpec:
        """The resizing and normalisation of the images that a tower of this input size expects."""
        return ImageSpec(size, self.mean, self.std, self.resize)


def usual_settings(config: TowerConfig) -> dict[str, Any]:
    """The configured sizes under transformers' usual names."""
    return {theirs: getattr(config, ours) for ours, theirs in SIZES.items()}


def usual_sizes(settings: PreTrainedConfig) -> dict[str, Any]:
    """The sizes in `TowerConfig` of settings that have them under transformers' usual names."""
    return {ours: getattr(settings, theirs) for ours, theirs in SIZES.items()}


def processor_settings(spec: ImageSpec) -> dict[str, Any]:
    """What the image processors of all families have in common."""
    return {
        "do_resize": True,
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "do_convert_rgb": True,
    }
