"""SigLIP's vision towers (Zhai et al. 2023): CLIP's layers without its class token and its first norm."""

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel, SiglipConfig, SiglipVisionConfig, SiglipVisionModel

from hive.model.families import clip
from hive.model.families.tower import TowerFamily, TowerParts, reset_norm, usual_settings, usual_sizes


def parts(model: PreTrainedModel) -> TowerParts:
    """See `TowerFamily.parts`."""
    tower = cast(SiglipVisionModel, model)
    return TowerParts(tower.embeddings, "patch_embedding", nn.Identity(), tower.encoder.layers)


@torch.no_grad()
def neutralise_end(model: PreTrainedModel) -> None:
    """See `TowerFamily.neutralise_end`.

    A query of zeros attends to all tokens alike; value and output projections are the identity; the MLP adds zero.
    """
    tower = cast(SiglipVisionModel, model)
    reset_norm(tower.post_layernorm)
    if tower.use_head:
        attention, width = tower.head.attention, tower.config.hidden_size
        for parameter in tower.head.parameters():
            parameter.zero_()
        attention.in_proj_weight[2 * width :].copy_(torch.eye(width))
        attention.out_proj.weight.copy_(torch.eye(width))
        reset_norm(tower.head.layernorm)


FAMILY = TowerFamily(
    name="siglip",
    title="SigLIP",
    model_class=SiglipVisionModel,
    settings_class=SiglipVisionConfig,
    whole_settings_class=SiglipConfig,
    to_settings=lambda config: SiglipVisionConfig(**usual_settings(config)),
    sizes=usual_sizes,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    resize="square",
    class_tokens=0,
    pools_by_attention=True,
    parts=parts,
    run_layer=clip.run_layer,
    layer_parts=clip.layer_parts,
    neutralise_end=neutralise_end,
    export_prefix=clip.FAMILY.export_prefix,
    free=clip.HEEDED,
)
