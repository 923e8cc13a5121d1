"""The exports for timm, open_clip and LLaVA: by these programs' definitions, and by the libraries where they are."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionModel, PreTrainedModel, SiglipVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hive.config import TowerFamilyName
from hive.data.images import ImageSpec
from hive.errors import UserError
from hive.export.facts import Facts, read_facts
from hive.export.llava import check_path, export_llava
from hive.export.loading import hidden_states, probe_image
from hive.export.open_clip import export_open_clip, text_weights, visual_settings, visual_weights
from hive.export.timm import export_timm, timm_settings, timm_weights
from hive.export.tower import trained_form
from hive.export.vit import require
from hive.model.families import image_spec
from tests.support.facts import made_up
from tests.support.image_modes import MODES, encode, levels_between
from tests.support.tiny_towers import tiny_tower

HAS_LIBRARIES = all(importlib.util.find_spec(name) for name in ("torchvision", "timm", "open_clip"))
needs_libraries = pytest.mark.skipif(not HAS_LIBRARIES, reason="timm and open_clip are not installed: make libraries")
FACTS = made_up(read=(1, 2), trained_layers=3)
FAMILIES: tuple[TowerFamilyName, ...] = ("clip", "siglip")


def pretrained(family: TowerFamilyName) -> PreTrainedModel:
    """With gains, biases and a pooling head that a fresh tower does not have yet."""
    model = tiny_tower(family)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return model


def trained(tower: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """(a normalised image, the deepest trained hidden state of it)."""
    image = probe_image(tower)
    return image, hidden_states(tower, image)[FACTS.deepest]


def mean_of_patches(state: Tensor, tower: PreTrainedModel) -> Tensor:
    normed = F.layer_norm(state, state.shape[-1:], eps=tower.config.layer_norm_eps)
    return normed[:, 1:].mean(1) if isinstance(tower, CLIPVisionModel) else normed.mean(1)


def check_pixels(transform: Callable[[Image.Image], Tensor], spec: ImageSpec) -> None:
    """Of an opaque image, to the rounding of whole levels."""
    for size in ((64, 32), (23, 37), (7, 5)):
        picture = MODES["RGB"](size)
        assert levels_between(transform(picture.image), encode(picture), spec) < 2.01


Linear = Callable[[Tensor, str], Tensor]


def linear_and_norm(weights: dict[str, Tensor], eps: float) -> tuple[Linear, Linear]:
    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    return linear, norm


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Textbook self-attention [1, N, D] of queries, keys and values [1, N, 3 D]."""
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def timm_tokens(weights: dict[str, Tensor], settings: dict[str, Any], image: Tensor, eps: float) -> Tensor:
    """timm's VisionTransformer up to its last block."""
    given, heads = settings["model_args"], settings["model_args"]["num_heads"]
    linear, norm = linear_and_norm(weights, eps)
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "gelu_tanh": nn.GELU("tanh"),
    }
    x = F.conv2d(image, weights["patch_embed.proj.weight"], weights.get("patch_embed.proj.bias"), given["patch_size"])
    x = x.flatten(2).transpose(1, 2)
    if "cls_token" in weights:
        x = torch.cat([weights["cls_token"], x], dim=1)
    x = x + weights["pos_embed"]
    x = norm(x, "norm_pre") if "norm_pre.weight" in weights else x
    for index in range(given["depth"]):
        block = f"blocks.{index}"
        x = x + linear(attend(linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv"), heads), f"{block}.attn.proj")
        hidden = activations[given["act_layer"]](linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    return x


def open_clip_tokens(weights: dict[str, Tensor], settings: dict[str, Any], image: Tensor) -> Tensor:
    """open_clip's VisionTransformer up to its last block, with OpenAI's activation."""
    linear, norm = linear_and_norm(weights, settings["norm_kwargs"]["eps"])
    heads = settings["width"] // settings["head_width"]
    x = F.conv2d(image, weights["visual.conv1.weight"], stride=settings["patch_size"]).flatten(2).transpose(1, 2)
    x = torch.cat([weights["visual.class_embedding"].expand(1, 1, -1), x], dim=1)
    x = norm(x + weights["visual.positional_embedding"], "visual.ln_pre")
    for index in range(settings["layers"]):
        block = f"visual.transformer.resblocks.{index}"
        inputs = norm(x, f"{block}.ln_1")
        qkv = F.linear(inputs, weights[f"{block}.attn.in_proj_weight"], weights[f"{block}.attn.in_proj_bias"])
        x = x + linear(attend(qkv, heads), f"{block}.attn.out_proj")
        hidden = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{block}.mlp.c_proj")
    return x


@pytest.mark.parametrize("family", FAMILIES)
def test_timm_names(family: TowerFamilyName) -> None:
    """timm's definition with the exported weights, against the trained tower's hidden state in transformers."""
    tower = pretrained(family)
    form = trained_form(tower, FACTS)
    settings = timm_settings(form, image_spec(tower), FACTS)
    image, expected = trained(tower)
    got = timm_tokens(timm_weights(form, settings), settings, image, tower.config.layer_norm_eps)
    torch.testing.assert_close(got, expected)
    assert settings["model_args"]["depth"] == 2
    assert settings["pretrained_cfg"]["crop_mode"] == ("center" if family == "clip" else "squash")


def test_open_clip_names() -> None:
    tower = pretrained("clip")
    form = trained_form(tower, FACTS)
    image, expected = trained(tower)
    torch.testing.assert_close(open_clip_tokens(visual_weights(form), visual_settings(form, FACTS), image), expected)
    assert not any(value.any() for value in text_weights(16, "").values())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"layer_norm_eps": 1e-2}, "layer_norm_eps 0.01"), ({"hidden_act": "relu"}, "hidden_act relu")],
)
def test_towers_that_timm_has_no_model_of(change: dict[str, Any], message: str) -> None:
    tower = tiny_tower("clip")
    for name, value in change.items():
        setattr(tower.config, name, value)
    with pytest.raises(UserError, match=message):
        timm_settings(tower, image_spec(tower), FACTS)


def test_a_library_that_is_missing_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no_such_library, which is not installed: pip install .*\[open-clip\]"):
        require("no_such_library", "open-clip")
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"can't be imported \(operator torchvision::nms does not exist\)"):
        require("broken_library", "timm")


def llava_features(folder: Path, family: TowerFamilyName, image: Tensor) -> Tensor:
    """What LLaVA's CLIPVisionTower and LLaVA-NeXT's SigLipVisionTower read, patch tokens."""
    with torch.no_grad():
        if family == "clip":
            CLIPImageProcessorPil.from_pretrained(folder)
            states = CLIPVisionModel.from_pretrained(folder).eval()(image, output_hidden_states=True).hidden_states
            return states[-2][:, 1:]
        model: Any = SiglipVisionModel.from_pretrained(folder).eval()
        del model.encoder.layers[-1:]
        return model(image, output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("deepest", [2, 3])
def test_llava_reads_the_deepest_trained_hidden_state(tmp_path: Path, family: TowerFamilyName, deepest: int) -> None:
    tower, folder = pretrained(family), tmp_path / f"tower-llava-{family}"
    export_llava(tower, folder, image_spec(tower), replace(FACTS, read=(deepest,)))
    image = probe_image(tower)
    expected = hidden_states(tower, image)[deepest]
    torch.testing.assert_close(llava_features(folder, family, image), expected[:, family == "clip" :])
    # LLaVA-NeXT's own configuration class of SigLIP has the defaults of another shape.
    config = json.loads((folder / "config.json").read_text())
    assert {"hidden_size", "image_size", "patch_size", "num_hidden_layers", "hidden_act", "layer_norm_eps"} <= set(
        config
    )


@pytest.mark.parametrize(
    ("path", "family", "message"),
    [
        ("/runs/a/tower-llava-clip", "clip", None),
        ("/runs/siglip/tower", "siglip", None),
        ("/runs/a/tower", "clip", 'has no "clip" in its path'),
        ("/runs/a/tower-clip", "siglip", 'has no "siglip" in its path'),
        ("/clip/a/tower-siglip", "siglip", 'has "clip" in its path'),
    ],
)
def test_the_words_by_which_llava_chooses(path: str, family: str, message: str | None) -> None:
    if message is None:
        check_path(Path(path), family)
    else:
        with pytest.raises(UserError, match=message):
            check_path(Path(path), family)


@pytest.mark.libraries
@needs_libraries
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("facts", [FACTS, replace(FACTS, keeps_untrained=True)], ids=["trained", "whole"])
def test_timm_loads_it(tmp_path: Path, family: TowerFamilyName, facts: Facts) -> None:
    import timm

    tower = pretrained(family)
    export_timm(tower, tmp_path / "timm", image_spec(tower), facts)
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    image, state = trained(tower)
    with torch.no_grad():
        pooled = tower(image).pooler_output if facts.keeps_untrained else mean_of_patches(state, tower)
        torch.testing.assert_close(model(image), pooled)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    check_pixels(transform, image_spec(tower))
    assert read_facts(tmp_path / "timm") == facts


@pytest.mark.libraries
@needs_libraries
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("facts", [FACTS, replace(FACTS, keeps_untrained=True)], ids=["trained", "whole"])
def test_open_clip_loads_it(tmp_path: Path, family: TowerFamilyName, facts: Facts) -> None:
    import open_clip

    tower = pretrained(family)
    export_open_clip(tower, tmp_path / "open_clip", image_spec(tower), facts, None)
    export_open_clip(tower, tmp_path / "open_clip", image_spec(tower), facts, None)  # replaces its own
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'open_clip'}")
    model.eval()
    check_pixels(transform, image_spec(tower))
    image, state = trained(tower)
    with torch.no_grad():
        pooled = tower(image).pooler_output if facts.keeps_untrained else mean_of_patches(state, tower)
        torch.testing.assert_close(model.encode_image(image), pooled)
        texts = open_clip.get_tokenizer("ViT-B-32")(["a cat", "two dogs"])
        assert not model.encode_text(texts).any()
    assert load_file(tmp_path / "open_clip" / "open_clip_model.safetensors")
