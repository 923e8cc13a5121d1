"""SigLIP's vision towers (Zhai et al. 2023): CLIP's layers without its class token and its first norm."""

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel, SiglipConfig, SiglipVisionConfig, SiglipVisionModel

from hive.data.images import ImageSpec
from hive.model.families import clip
from hive.model.families.tower import TowerFamily, TowerParts, processor_settings, usual_settings, usual_sizes


def processor(spec: ImageSpec) -> dict[str, Any]:
    """See `TowerFamily.processor`; cropped images get CLIP's processor, because SigLIP's can't crop."""
    if spec.resize == "crop":
        return clip.processor(spec)
    square = {"height": spec.size, "width": spec.size}
    return {"image_processor_type": "SiglipImageProcessor", "size": square, **processor_settings(spec)}


def parts(model: PreTrainedModel) -> TowerParts:
    """See `TowerFamily.parts`."""
    tower = cast(SiglipVisionModel, model)
    return TowerParts(tower.embeddings, "patch_embedding", nn.Identity(), tower.encoder.layers)


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
    processor=processor,
    class_tokens=0,
    pools_by_attention=True,
    parts=parts,
    run_layer=clip.run_layer,
    layer_parts=clip.layer_parts,
    export_prefix=clip.FAMILY.export_prefix,
    free=clip.HEEDED,
)
