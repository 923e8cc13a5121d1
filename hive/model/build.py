"""Builds the model that a configuration describes: pretrained weights or fresh ones, on a real device or on "meta"."""

import dataclasses

import torch
from transformers import PreTrainedModel

from hive.config import AnyConfig, Config
from hive.model.alignment import align_depths, select_hidden_states
from hive.model.fusion import HierarchicalFusion, JointFusion
from hive.model.hive import HiveModel
from hive.model.language import LanguageModel
from hive.model.pretrained import language_model, vision_model
from hive.model.projector import LayerwiseMLPProjector, MLPProjector, ResidualProjector
from hive.model.self_attention import SelfAttentionModel
from hive.model.vision import VisionTower

Model = HiveModel | SelfAttentionModel


def build_model(config: Config, backend: str, *, pretrained: bool = True) -> Model:
    """The model in fp32 on the current default device, weights fixed by `config.seed`.

    `backend` is a name that `kernel_for` returned. With `pretrained=False` no weights are loaded, as for a dry run on
    the meta device: the shape is that of the pretrained weights if they are present, else the configured one. Otherwise
    missing weights raise `UserError`.
    """
    torch.manual_seed(config.seed)
    vision = vision_model(config.vision, pretrained)
    return assemble(config, backend, vision, language_model(config.language, pretrained))


def assemble(config: Config, backend: str, vision: PreTrainedModel, causal: PreTrainedModel) -> Model:
    """The model around a tower and a causal language model, with a new projector and fusion as configured."""
    language = LanguageModel(causal, backend, config.checkpoint_activations)
    layers = vision.config.num_hidden_layers
    if config.method == "self-attention":
        # LLaVA's choice: the last hidden state but one.
        tower = VisionTower(vision, (layers - 1,), config.checkpoint_activations)
        return SelfAttentionModel(tower, MLPProjector(tower.width, language.width), language)
    selected = select_hidden_states(config.vision.selection, config.vision.density, layers)
    tower = VisionTower(vision, selected, config.checkpoint_activations)
    depths = align_depths(config.depths, len(selected), language.shape.layers)
    projector: ResidualProjector | LayerwiseMLPProjector
    if config.projector == "mlp":
        projector = LayerwiseMLPProjector(len(selected), tower.width, language.width)
    else:
        projector = ResidualProjector(len(selected), tower.width, language.width, backend)
    hosts = language.attention_parts(depths)
    fusion = JointFusion(hosts) if config.fusion == "joint" else HierarchicalFusion(hosts, config.gate, backend)
    return HiveModel(tower, projector, fusion, language)


def resolved(config: AnyConfig, model: Model) -> AnyConfig:
    """The configuration with the model's families and shapes; those of pretrained weights replace the flags'."""
    tower, language = model.tower, model.language
    return dataclasses.replace(
        config,
        vision=tower.family.described(config.vision, tower.model.config),
        language=language.family.described(config.language, language.model.config),
    )
