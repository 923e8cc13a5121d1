"""CLIP's vision towers (Radford et al. 2021): a class token, and a norm in front of the first layer."""

from typing import cast

from torch import Tensor, nn
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModel, PreTrainedModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from hive.model.families.tower import (
    EncoderLayerParts,
    TowerFamily,
    TowerParts,
    reset_norm,
    usual_settings,
    usual_sizes,
)

HEEDED = frozenset({"hidden_act", "layer_norm_eps", "initializer_factor", "projection_dim", "vision_use_head"})
"""See `TowerFamily.free`; `FrozenTower` takes over the tower's norms and activation."""


def parts(model: PreTrainedModel) -> TowerParts:
    """See `TowerFamily.parts`."""
    tower = cast(CLIPVisionModel, model)
    return TowerParts(tower.embeddings, "patch_embedding", tower.pre_layrnorm, tower.encoder.layers)


def run_layer(layer: nn.Module, hidden: Tensor) -> Tensor:
    """See `TowerFamily.run_layer`; the layer's second argument is a mask, None for no mask."""
    return layer(hidden, None)


def layer_parts(layer: nn.Module) -> EncoderLayerParts:
    """See `TowerFamily.layer_parts`."""
    host = cast(CLIPEncoderLayer, layer)
    attention, mlp = host.self_attn, host.mlp
    return EncoderLayerParts(
        heads=attention.num_heads,
        norm1=host.layer_norm1,
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        output=attention.out_proj,
        norm2=host.layer_norm2,
        fc1=mlp.fc1,
        activation=mlp.activation_fn,
        fc2=mlp.fc2,
    )


def neutralise_end(model: PreTrainedModel) -> None:
    """See `TowerFamily.neutralise_end`; the final norm is that of the class token."""
    reset_norm(cast(CLIPVisionModel, model).post_layernorm)


FAMILY = TowerFamily(
    name="clip",
    title="CLIP",
    model_class=CLIPVisionModel,
    settings_class=CLIPVisionConfig,
    whole_settings_class=CLIPConfig,
    to_settings=lambda config: CLIPVisionConfig(**usual_settings(config)),
    sizes=usual_sizes,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    resize="crop",
    class_tokens=1,
    pools_by_attention=False,
    parts=parts,
    run_layer=run_layer,
    layer_parts=layer_parts,
    neutralise_end=neutralise_end,
    export_prefix="vision_model.",  # transformers before 5.6 find no weight without it, later versions read both
    free=HEEDED,
)
