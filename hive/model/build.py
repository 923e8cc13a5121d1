"""From a configuration to a model: pretrained weights or fresh ones, on a real device or on "meta"."""

import dataclasses
from typing import Any, cast

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from hive.config import AnyConfig, Config, Kernel, LanguageConfig, TowerConfig
from hive.data.images import ImageSpec
from hive.errors import UserError
from hive.model.alignment import align_depths, select_hidden_states
from hive.model.fusion import HierarchicalFusion, JointFusion
from hive.model.hive import HiveModel
from hive.model.language import LanguageModel
from hive.model.pretrained import is_present, language_config, load_language, load_vision, vision_config
from hive.model.projector import LayerwiseMLPProjector, MLPProjector, ResidualProjector
from hive.model.self_attention import SelfAttentionModel
from hive.model.vision import VisionTower
from hive_kernels import backends

Model = HiveModel | SelfAttentionModel

CLIP_SPEC = ImageSpec(336, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), "crop")
SIGLIP_SPEC = ImageSpec(384, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "square")


def build_model(config: Config, backend: str, *, pretrained: bool = True) -> Model:
    """The model in fp32 on the current default device, weights fixed by `config.seed`.

    `backend` is a resolved kernel name. With `pretrained=False` nothing is loaded, as a dry run needs on the meta
    device: weights that are here give only their shape, and the configuration gives that of missing ones. Otherwise
    missing weights raise `UserError`.
    """
    torch.manual_seed(config.seed)
    vision = vision_model(config.vision, pretrained)
    llama = language_model(config.language, pretrained)
    language = LanguageModel(llama, backend, config.checkpoint_activations)
    spec = image_spec(vision)
    layers = vision.config.num_hidden_layers
    width, vision_width = language.width, vision.config.hidden_size
    if config.method == "self-attention":
        # LLaVA's choice: the last hidden state but one.
        tower = VisionTower(vision, (layers - 1,), spec, config.checkpoint_activations)
        return SelfAttentionModel(tower, MLPProjector(vision_width, width), language)
    selected = select_hidden_states(config.vision.selection, config.vision.density, layers)
    tower = VisionTower(vision, selected, spec, config.checkpoint_activations)
    depths = align_depths(config.depths, len(selected), llama.config.num_hidden_layers)
    projector: ResidualProjector | LayerwiseMLPProjector
    if config.projector == "mlp":
        projector = LayerwiseMLPProjector(len(selected), vision_width, width)
    else:
        projector = ResidualProjector(len(selected), vision_width, width, backend)
    if config.fusion == "joint":
        return HiveModel(tower, projector, JointFusion(llama, depths), language)
    return HiveModel(tower, projector, HierarchicalFusion(llama, depths, config.gate, backend), language)


def kernel_for(name: Kernel, device: torch.device) -> Kernel:
    """The backend that `--kernel` means on the device; `UserError` says why it can't run there, and which can."""
    try:
        return backends.resolve(name, device)
    except ValueError as error:
        reason = str(error).removeprefix(f"backend is {name!r}, which ")
        raise UserError(f"--kernel is {name}, but that {reason}.") from error


def resolved(config: AnyConfig, model: Model) -> AnyConfig:
    """The configuration with the shapes that the model has: pretrained weights bring their own, whatever the flags."""
    tower: Any = model.tower.model.config
    llama: Any = model.language.model.config
    vision = dataclasses.replace(
        config.vision,
        family="clip" if isinstance(tower, CLIPVisionConfig) else "siglip",
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        hidden_size=tower.hidden_size,
        layers=tower.num_hidden_layers,
        heads=tower.num_attention_heads,
        mlp_size=tower.intermediate_size,
    )
    language = dataclasses.replace(
        config.language,
        hidden_size=llama.hidden_size,
        layers=llama.num_hidden_layers,
        heads=llama.num_attention_heads,
        kv_heads=llama.num_key_value_heads,
        mlp_size=llama.intermediate_size,
        vocab_size=llama.vocab_size,
        rope_theta=float(llama.rope_parameters["rope_theta"]),
        llama3_rope=llama.rope_parameters["rope_type"] == "llama3",
        norm_eps=llama.rms_norm_eps,
        tied_embeddings=llama.tie_word_embeddings,
    )
    return dataclasses.replace(config, vision=vision, language=language)


def image_spec(vision: CLIPVisionModel | SiglipVisionModel) -> ImageSpec:
    """How the tower's family wants its images: its input size and its processor's mean, deviation and resizing."""
    family = CLIP_SPEC if isinstance(vision, CLIPVisionModel) else SIGLIP_SPEC
    return ImageSpec(cast(int, vision.config.image_size), family.mean, family.std, family.resize)


def vision_model(config: TowerConfig, pretrained: bool) -> CLIPVisionModel | SiglipVisionModel:
    """The configured tower, fp32: its weights, or with `pretrained=False` or without any a fresh one of its shape."""
    if config.weights is None or not (pretrained or is_present(config.weights)):
        return fresh_vision(config)
    if pretrained:
        return load_vision(config.weights)
    shape = vision_config(config.weights)
    return CLIPVisionModel(shape) if isinstance(shape, CLIPVisionConfig) else SiglipVisionModel(shape)


def language_model(config: LanguageConfig, pretrained: bool) -> LlamaForCausalLM:
    """The same for the language model."""
    if config.weights is None or not (pretrained or is_present(config.weights)):
        return fresh_language(config)
    return load_language(config.weights) if pretrained else LlamaForCausalLM(language_config(config.weights))


def fresh_vision(config: TowerConfig) -> CLIPVisionModel | SiglipVisionModel:
    """A tower of the configured shape with the family's own initialisation."""
    shape: dict[str, Any] = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_size,
    }
    if config.family == "clip":
        return CLIPVisionModel(CLIPVisionConfig(**shape))
    return SiglipVisionModel(SiglipVisionConfig(**shape))


def fresh_language(config: LanguageConfig) -> LlamaForCausalLM:
    """A Llama of the configured shape with the family's own initialisation."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.llama3_rope:
        rope |= {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    settings = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.mlp_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tied_embeddings,
        rope_parameters=rope,
        max_position_embeddings=131_072 if config.llama3_rope else 2048,
    )
    return LlamaForCausalLM(settings)
