"""The tower as a model of timm: config.json in the layout of timm's models on the hub, and its weights."""

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
from hive.export.tower import trained_form, weights_of
from hive.export.vit import mlp_ratio, query_key_value, require, trained_features
from hive.model.families import tower_family

# By the class tokens of a tower: the registered model whose class and further arguments are the tower's, and the only
# epsilon of its norms, which arguments can't change.
ARCHITECTURES = {1: ("vit_base_patch16_clip_224", 1e-5), 0: ("vit_base_patch16_siglip_224", 1e-6)}
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def export_timm(tower: PreTrainedModel, folder: Path, spec: ImageSpec, facts: Facts) -> None:
    """Writes the tower's trained form for timm; timm loads it and must give the trained features.

    Raises `UserError` where timm is missing or has no such model, and where `folder` holds something else.
    """
    timm = require("timm", "timm")
    form = trained_form(tower, facts)
    settings = timm_settings(form, spec, facts)
    with replacing(folder, "The tower for timm") as temporary:
        write_json(temporary / "config.json", settings)
        write_card(temporary, facts, form, _form(facts))
        metadata = {**facts.metadata(), SEAL: seal(temporary)}
        save_weights(timm_weights(form, settings), temporary / "model.safetensors", metadata)
        _compare(timm, form, temporary, facts)


def timm_settings(tower: PreTrainedModel, spec: ImageSpec, facts: Facts) -> dict[str, Any]:
    """The content of timm's config.json; raises `UserError` for a norm or an activation that timm's models lack."""
    settings = tower.config
    architecture, eps = ARCHITECTURES[tower_family(tower).class_tokens]
    if settings.layer_norm_eps != eps or settings.hidden_act not in ACTIVATIONS:
        raise UserError(
            f"The tower has layer_norm_eps {settings.layer_norm_eps:g} and hidden_act {settings.hidden_act}, but "
            f"timm's model has {eps:g} and {', '.join(ACTIVATIONS)} alone: use --to hub or --to open_clip."
        )
    pool = pooling(tower, facts)
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": settings.hidden_size,
        "global_pool": pool,
        "model_args": {
            "img_size": settings.image_size,
            "patch_size": settings.patch_size,
            "embed_dim": settings.hidden_size,
            "depth": settings.num_hidden_layers,
            "num_heads": settings.num_attention_heads,
            "mlp_ratio": mlp_ratio(tower),
            "act_layer": ACTIVATIONS[settings.hidden_act],
            "global_pool": pool,
            "fc_norm": False,
        },
        "pretrained_cfg": {
            "input_size": [3, spec.size, spec.size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center" if spec.resize == "crop" else "squash",
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def pooling(tower: PreTrainedModel, facts: Facts) -> str:
    """timm's `global_pool`: the mean of the trained patch tokens; of a tower that is kept whole, its own pooling."""
    family = tower_family(tower)
    if not facts.keeps_untrained or (family.pools_by_attention and not tower.config.vision_use_head):
        return "avg"
    return "map" if family.pools_by_attention else "token"


def timm_weights(tower: PreTrainedModel, settings: dict[str, Any]) -> dict[str, Tensor]:
    """The tower's weights, fp32 on the CPU, under timm's names; without a head that `settings` does not use."""
    family = tower_family(tower)
    given = {name.removeprefix(family.export_prefix): value for name, value in weights_of(tower).items()}
    weights = {
        "patch_embed.proj.weight": given["embeddings.patch_embedding.weight"],
        "pos_embed": given["embeddings.position_embedding.weight"][None],
    }
    if family.class_tokens:
        weights["cls_token"] = given["embeddings.class_embedding"][None, None]
        weights |= _named(given, "pre_layrnorm", "norm_pre")
    else:
        weights["patch_embed.proj.bias"] = given["embeddings.patch_embedding.bias"]
    for index in range(tower.config.num_hidden_layers):
        ours, theirs = f"encoder.layers.{index}", f"blocks.{index}"
        weight, bias = query_key_value(tower, index)
        weights |= {f"{theirs}.attn.qkv.weight": weight, f"{theirs}.attn.qkv.bias": bias}
        for name, other in (
            ("layer_norm1", "norm1"),
            ("self_attn.out_proj", "attn.proj"),
            ("layer_norm2", "norm2"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        ):
            weights |= _named(given, f"{ours}.{name}", f"{theirs}.{other}")
    weights |= _named(given, "post_layernorm", "norm")
    if settings["global_pool"] == "map":
        weights |= _attention_pool(given)
    return {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in weights.items()}


def _attention_pool(given: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {"attn_pool.latent": given["head.probe"]}
    for kind in ("weight", "bias"):
        query, key, value = given[f"head.attention.in_proj_{kind}"].chunk(3)
        weights |= {f"attn_pool.q.{kind}": query, f"attn_pool.kv.{kind}": torch.cat([key, value])}
    for name, other in (
        ("attention.out_proj", "proj"),
        ("layernorm", "norm"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ):
        weights |= _named(given, f"head.{name}", f"attn_pool.{other}")
    return weights


def _named(given: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    return {f"{theirs}.{kind}": given[f"{ours}.{kind}"] for kind in ("weight", "bias")}


def _compare(timm: Any, form: PreTrainedModel, folder: Path, facts: Facts) -> None:
    model = timm.create_model(f"local-dir:{folder.absolute()}", pretrained=True).to(form.device).eval()
    image, expected = trained_features(form, facts.deepest)
    with torch.no_grad():
        found = model.forward_intermediates(
            image.float(),
            indices=[max(0, facts.deepest - 1)],
            norm=False,
            output_fmt="NLC",
            return_prefix_tokens=model.num_prefix_tokens > 0,
            intermediates_only=True,
        )[0]
    tokens = torch.cat([found[1], found[0]], dim=1) if model.num_prefix_tokens else found
    check_same("timm", tokens, expected.float())


def _form(facts: Facts) -> Form:
    code = (
        "import timm\n\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:ORG/NAME\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)\n"
        "features = model(transform(image)[None])"
    )
    untrained = "what follows the trained layers was not trained"
    outputs = {
        "model(...)": f"the tower's own pooling: {untrained}"
        if facts.keeps_untrained
        else f"the mean of the patch tokens of {trained_output(facts)}, each normalised to mean 0 and deviation 1",
        f"model.forward_intermediates(..., indices=[{max(0, facts.deepest - 1)}], norm=False)": trained_output(facts),
    }
    return Form("timm", code, outputs)
