"""The vision-language model: LLaVA over the pre-trained tower's last layer."""

from typing import cast

import torch
from torch import Tensor

from hive.config import TowerConfig
from hive.data.text import Batch
from hive.errors import UserError
from hive.model.language import LanguageModel
from hive.model.pretrained import language_model, tower_shape, vision_model
from hive.model.projector import MLPProjector
from hive.model.self_attention import Interleaved, SelfAttentionModel
from hive.model.vision import VisionTower
from hive.vlm.chat import ChatBatch
from hive.vlm.config import VLMConfig


class VLM(SelfAttentionModel):
    """Tower, then MLP; its outputs are rows of the chat's sequence, at the places of the images."""

    def layout(self, batch: Batch, patches: int) -> Interleaved:
        """Which rows are text, image and predicting ones, as the batch gives them."""
        chat = cast(ChatBatch, batch)
        return Interleaved(
            chat.cu_seqlens, chat.positions, chat.max_seqlen, chat.text_rows, chat.image_rows, chat.predicting_rows
        )


def build_vlm(config: VLMConfig, backend: str, *, pretrained: bool = True) -> VLM:
    """The model in fp32 on the current default device: a new connector, tower and language model as configured.

    Missing weights raise `UserError`; with `pretrained=False` nothing is loaded, as in `build_model`.
    """
    torch.manual_seed(config.seed)
    vision = vision_model(config.vision, pretrained)
    language = LanguageModel(language_model(config.language, pretrained), backend, config.checkpoint_activations)
    layers = vision.config.num_hidden_layers
    layer = layers + 1 + config.feature_layer
    if layer < 1:
        raise UserError(
            f"--feature-layer is {config.feature_layer}, but the tower has {layers} layers: give -{layers} to -1."
        )
    tower = VisionTower(vision, (layer,))
    return VLM(tower, MLPProjector(tower.width, language.width), language)


def image_shape(config: TowerConfig, pretrained: bool) -> tuple[int, int]:
    """(patch tokens of an image, pixels of its side) of the tower that `tower_shape` describes."""
    shape = tower_shape(config, pretrained)
    return (shape.image_size // shape.patch_size) ** 2, shape.image_size


def logits(model: VLM, batch: Batch) -> Tensor:
    """The logits of every row of a batch, fp32 [R, V], with which an exported model is compared."""
    hidden, _ = model.hidden(batch)
    return model.language.logits(hidden).float()
