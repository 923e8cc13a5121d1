"""What the engine needs to know about a family of vision towers."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hive.config import TowerConfig, TowerFamilyName
from hive.data.images import ImageSpec
from hive.errors import UserError

LARGE = 2**63
"""No number in a processor's settings is that large, and floats are not without end."""
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
    whole_settings_class: type[PreTrainedConfig] | None
    """Of the models that hold such a tower, whose settings have the tower's in `vision_config`."""

    to_settings: Callable[[TowerConfig], PreTrainedConfig]
    """The settings of a fresh tower of the configured shape."""
    sizes: Callable[[PreTrainedConfig], dict[str, Any]]
    """The inverse of `to_settings`: the sizes in `TowerConfig`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["crop", "square"]
    """How images are prepared: channels' mean and deviation in 0..1, and `ImageSpec.resize`."""

    class_tokens: int
    """Class tokens in front of the patch tokens, 0 or 1."""
    pools_by_attention: bool
    """Whether the whole model ends in an attention pooling head, whose keys and values of every token cost FLOPs."""
    parts: Callable[[PreTrainedModel], TowerParts]
    run_layer: Callable[[nn.Module, Tensor], Tensor]
    """The output of transformers' encoder layer for its input, both [B, class token + N, Dv]."""
    layer_parts: Callable[[nn.Module], EncoderLayerParts]
    """The layer's modules, of which `FrozenTower` builds a faster layer."""
    neutralise_end: Callable[[PreTrainedModel], None]
    """Replaces the weights behind the last layer, which no stage trains, so that they add nothing of their own: the
    final norm has gain 1 and bias 0, and an attention pooling head gives the mean of the tokens."""

    export_prefix: str
    """Prefix of an exported weight's name with which every supported version of transformers finds it."""
    unread: str = r"^(text_model|text_projection|visual_projection)\.|^logit_(scale|bias)$|\.position_ids$"
    """Pattern of the weights in a checkpoint that the tower has no place for and needs none: those of a whole model."""
    free: frozenset[str] = frozenset()
    """Fields of the settings, besides the sizes, that the model class heeds and the engine leaves to it."""

    def described(self, config: TowerConfig, settings: PreTrainedConfig) -> TowerConfig:
        """`config` with the family and the sizes of the settings."""
        return dataclasses.replace(config, family=self.name, **self.sizes(settings))

    def image_spec(self, size: int) -> ImageSpec:
        """The resizing and normalisation of the images that a tower of this input size expects."""
        return ImageSpec(size, self.mean, self.std, self.resize)


def reset_norm(norm: nn.LayerNorm) -> None:
    """Sets gain 1 and bias 0."""
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)


def usual_settings(config: TowerConfig) -> dict[str, Any]:
    """The configured sizes under transformers' usual names."""
    return {theirs: getattr(config, ours) for ours, theirs in SIZES.items()}


def usual_sizes(settings: PreTrainedConfig) -> dict[str, Any]:
    """The sizes in `TowerConfig` of settings that have them under transformers' usual names."""
    return {ours: getattr(settings, theirs) for ours, theirs in SIZES.items()}


def processor(spec: ImageSpec) -> dict[str, Any]:
    """The content of preprocessor_config.json for images that are prepared as `spec` says.

    Of transformers' processors that crop, or resize to a square, Chameleon's is the only one that lays transparency on
    white in every version from 4.57 on; from 5.23 on all do. CLIP's and SigLIP's classes read the same file.
    """
    square = {"height": spec.size, "width": spec.size}
    crop = spec.resize == "crop"
    return {
        "image_processor_type": "ChameleonImageProcessor",
        "size": {"shortest_edge": spec.size} if crop else square,
        "do_center_crop": crop,
        "crop_size": square,
        "do_resize": True,
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "do_convert_rgb": True,
    }


def check_processor(content: Mapping[str, Any], spec: ImageSpec, source: str) -> None:
    """Raises `UserError` where a preprocessor_config.json prepares other images than `spec` for the tower.

    How an image is brought to its size is not compared: it is resized as `spec` says, in training and in the export.
    """
    crops = content.get("do_center_crop") and "crop_size" in content
    size = "crop_size" if crops else "size"
    wanted: dict[str, list[float]] = {
        size: [spec.size],
        "do_rescale": [1],
        "rescale_factor": [1 / 255],
        "do_normalize": [1],
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }
    for name, numbers in wanted.items():
        if content.get(name) is not None and not _are_close(_numbers(content[name]), numbers):
            raise UserError(
                f"The preprocessor_config.json of {source} says that {name} is {content[name]!s:.80}, but the tower is "
                f"given images with {', '.join(f'{number:.8g}' for number in numbers)}: give a tower whose files agree."
            )


def _numbers(value: Any) -> list[Any]:
    """The numbers in a value of a processor's settings: those of a list, or the different ones of a record of sides."""
    if isinstance(value, Mapping):
        return sorted({side for side in value.values() if side is not None}, key=str)
    return list(value) if isinstance(value, list | tuple) else [value]


def _are_close(given: list[Any], wanted: list[float]) -> bool:
    return len(given) == len(wanted) and all(
        isinstance(number, int | float) and abs(number) < LARGE and math.isclose(number, other, rel_tol=1e-4)
        for number, other in zip(given, wanted, strict=True)
    )
