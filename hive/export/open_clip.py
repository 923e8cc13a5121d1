"""The tower as the image side of an open_clip model, whose text side is empty: open_clip has no model without one."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hive.data.images import ImageSpec
from hive.errors import UserError
from hive.export.card import Form, trained_output, write_card
from hive.export.facts import Facts
from hive.export.loading import check_same
from hive.export.place import SEAL, replacing, save_weights, seal, write_json
from hive.export.timm import pooling, timm_settings, timm_weights
from hive.export.tower import trained_form, weights_of
from hive.export.vit import mlp_ratio, query_key_value, require, trained_features
from hive.model.families import tower_family

CONFIG, WEIGHTS, TIMM_CONFIG = "open_clip_config.json", "open_clip_model.safetensors", "config.json"
CONTEXT, VOCABULARY = 77, 49408  # of open_clip's tokenizer
TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 1, "heads": 1, "layers": 1, "mlp_ratio": 1.0}
"""The smallest text model that takes what open_clip's tokenizer gives; all its weights are zero."""
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "quick_gelu": {},
    "gelu": {},
    "gelu_pytorch_tanh": {"act_kwargs": {"approximate": "tanh"}},
}


def export_open_clip(tower: PreTrainedModel, folder: Path, spec: ImageSpec, facts: Facts, hub_name: str | None) -> None:
    """Writes the tower's trained form for open_clip; open_clip loads it and must give the trained features.

    A tower without a class token is a model of timm there, whose settings open_clip looks for at the place that its
    own settings name: `folder`, or `hub_name` where the folder will be on the hub. Raises `UserError` where open_clip
    is missing or has no such model, and where `folder` holds something else.
    """
    library = require("open_clip", "open-clip")
    form = trained_form(tower, facts)
    by_timm = not tower_family(tower).class_tokens
    with replacing(folder, "The tower for open_clip") as temporary:
        if by_timm:
            settings = timm_settings(form, spec, facts)
            write_json(temporary / TIMM_CONFIG, settings)
            weights = {f"visual.trunk.{name}": value for name, value in timm_weights(form, settings).items()}
            vision = _timm_side(form, facts, temporary)
        else:
            weights, vision = visual_weights(form), visual_settings(form, facts)
        weights |= text_weights(form.config.hidden_size, "text." if by_timm else "")
        write_json(temporary / CONFIG, _settings(form, spec, vision, by_timm))
        _save(temporary, weights, facts)
        _compare(library, form, temporary, facts, by_timm)
        if by_timm:
            vision = {
                **vision,
                "timm_model_name": f"hf-hub:{hub_name}" if hub_name else f"local-dir:{folder.absolute()}",
            }
            write_json(temporary / CONFIG, _settings(form, spec, vision, by_timm))
        write_card(temporary, facts, form, _form(facts, by_timm))
        _save(temporary, weights, facts)


def _save(folder: Path, weights: dict[str, Tensor], facts: Facts) -> None:
    save_weights(weights, folder / WEIGHTS, {**facts.metadata(), SEAL: seal(folder)})


def _settings(tower: PreTrainedModel, spec: ImageSpec, vision: dict[str, Any], by_timm: bool) -> dict[str, Any]:
    model = {
        "embed_dim": tower.config.hidden_size,
        "vision_cfg": vision,
        "text_cfg": TEXT,
        "custom_text": by_timm,
        "quick_gelu": tower.config.hidden_act == "quick_gelu",  # a model of timm takes no heed of it
    }
    resize = "shortest" if spec.resize == "crop" else "squash"
    prepare = {
        "mean": list(spec.mean),
        "std": list(spec.std),
        "interpolation": "bicubic",
        "resize_mode": resize,
        "size": [spec.size, spec.size],
    }
    return {"model_cfg": model, "preprocess_cfg": prepare}


def _timm_side(tower: PreTrainedModel, facts: Facts, folder: Path) -> dict[str, Any]:
    return {
        "image_size": tower.config.image_size,
        "timm_model_name": f"local-dir:{folder.absolute()}",
        "timm_model_pretrained": False,
        "timm_pool": pooling(tower, facts),
        "timm_proj": "none",
    }


def visual_settings(tower: PreTrainedModel, facts: Facts) -> dict[str, Any]:
    """`vision_cfg` of a tower with a class token; raises `UserError` for an activation that open_clip lacks."""
    settings = tower.config
    if settings.hidden_act not in ACTIVATIONS:
        raise UserError(
            f"The tower has hidden_act {settings.hidden_act}, but open_clip has {', '.join(ACTIVATIONS)} alone: use "
            "--to hub."
        )
    return {
        "image_size": settings.image_size,
        "patch_size": settings.patch_size,
        "width": settings.hidden_size,
        "layers": settings.num_hidden_layers,
        "head_width": settings.hidden_size // settings.num_attention_heads,
        "mlp_ratio": mlp_ratio(tower),
        "pool_type": "tok" if facts.keeps_untrained else "avg",
        "norm_kwargs": {"eps": settings.layer_norm_eps},
        **ACTIVATIONS[settings.hidden_act],
    }


def visual_weights(tower: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of a tower with a class token under open_clip's names; the projection is the identity."""
    family = tower_family(tower)
    given = {name.removeprefix(family.export_prefix): value for name, value in weights_of(tower).items()}
    weights = {
        "visual.class_embedding": given["embeddings.class_embedding"],
        "visual.positional_embedding": given["embeddings.position_embedding.weight"],
        "visual.conv1.weight": given["embeddings.patch_embedding.weight"],
        "visual.proj": torch.eye(tower.config.hidden_size),
    }
    names = {"pre_layrnorm": "visual.ln_pre", "post_layernorm": "visual.ln_post"}
    for index in range(tower.config.num_hidden_layers):
        ours, theirs = f"encoder.layers.{index}", f"visual.transformer.resblocks.{index}"
        weight, bias = query_key_value(tower, index)
        weights |= {f"{theirs}.attn.in_proj_weight": weight, f"{theirs}.attn.in_proj_bias": bias}
        names |= {
            f"{ours}.layer_norm1": f"{theirs}.ln_1",
            f"{ours}.self_attn.out_proj": f"{theirs}.attn.out_proj",
            f"{ours}.layer_norm2": f"{theirs}.ln_2",
            f"{ours}.mlp.fc1": f"{theirs}.mlp.c_fc",
            f"{ours}.mlp.fc2": f"{theirs}.mlp.c_proj",
        }
    for name, other in names.items():
        weights |= {f"{other}.{kind}": given[f"{name}.{kind}"] for kind in ("weight", "bias")}
    return {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in weights.items()}


def text_weights(width: int, prefix: str) -> dict[str, Tensor]:
    """The weights of the text side `TEXT`, all zero, so that every text has the same features: zeros."""
    block = "transformer.resblocks.0"
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (CONTEXT, 1),
        "token_embedding.weight": (VOCABULARY, 1),
        f"{block}.attn.in_proj_weight": (3, 1),
        f"{block}.attn.in_proj_bias": (3,),
        "text_projection": (1, width),
    }
    squares = (f"{block}.attn.out_proj", f"{block}.mlp.c_fc", f"{block}.mlp.c_proj")
    shapes |= {f"{name}.weight": (1, 1) for name in squares}
    shapes |= {f"{name}.bias": (1,) for name in squares}
    shapes |= {
        f"{name}.{kind}": (1,) for name in (f"{block}.ln_1", f"{block}.ln_2", "ln_final") for kind in ("weight", "bias")
    }
    return {f"{prefix}{name}": torch.zeros(shape) for name, shape in shapes.items()} | {"logit_scale": torch.zeros(())}


def _compare(library: Any, form: PreTrainedModel, folder: Path, facts: Facts, by_timm: bool) -> None:
    model = library.create_model(f"local-dir:{folder.absolute()}").to(form.device).eval()
    image, expected = trained_features(form, facts.deepest)
    with torch.no_grad():
        output = model.visual.forward_intermediates(
            image.float(),
            indices=[max(0, facts.deepest - 1)],
            output_fmt="NLC",
            output_extra_tokens=not by_timm,
            intermediates_only=True,
        )
    prefix = output.get("image_intermediates_prefix", [])
    check_same("open_clip", torch.cat([*prefix, *output["image_intermediates"]], dim=1), expected.float())


def _form(facts: Facts, by_timm: bool) -> Form:
    code = (
        "import open_clip\n\n"
        'model, _, transform = open_clip.create_model_and_transforms("local-dir:FOLDER")  # or hf-hub:ORG/NAME\n'
        "features = model.eval().encode_image(transform(image)[None])"
    )
    outputs = {
        "encode_image(...)": "the tower's own pooling: what follows the trained layers was not trained"
        if facts.keeps_untrained
        else f"the mean of the patch tokens of {trained_output(facts)}, each normalised to mean 0 and deviation 1",
        "encode_text(...)": "zeros for every text",
    }
    remarks = [
        "This is an image tower alone. open_clip has no model without a text side, so there is one here of width 1, "
        "whose weights are all zero. Images can't be compared with texts by it.",
    ]
    if by_timm:
        remarks.append(
            f"open_clip takes the shape of this tower from timm's {TIMM_CONFIG} beside it, at the place that "
            f"`timm_model_name` in {CONFIG} names. Change that line where you move the folder."
        )
    return Form("open_clip", code, outputs, remarks)
