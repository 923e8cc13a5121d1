"""The vision tower: transformers' vision model, run layer by layer up to the last selected one."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from hive.config import TowerConfig
from hive.model.families import tower_family

Encode = Callable[[Tensor], Tensor]
"""Pixels uint8 [B, 3, H, W] to the selected hidden states [S, B, N, Dv]."""


class VisionTower(nn.Module):
    """Computes the selected hidden states of the patch tokens from pixels.

    B images, N = `patches` patch tokens an image, S selected hidden states, Dv = `width`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        selected: tuple[int, ...],
        checkpoint_activations: bool = False,
        keep_class_token: bool = False,
    ) -> None:
        """Runs `model` up to the last of the `selected` hidden states: rising, 0 = embeddings, k = output of layer k.

        `keep_class_token` keeps a class token, if the tower has one, in front of the patch tokens.
        """
        super().__init__()
        self.model = model
        self.selected = selected
        self.checkpoint_activations = checkpoint_activations
        self.family = tower_family(model)
        self.parts = self.family.parts(model)
        self.shape = self.family.described(TowerConfig(), model.config)
        self.spec = self.family.image_spec(self.shape.image_size)
        self.width = self.shape.hidden_size
        self.image_size, self.patch_size = self.shape.image_size, self.shape.patch_size
        self.patches = (self.image_size // self.patch_size) ** 2
        self.class_tokens = self.family.class_tokens
        self.dropped_tokens = 0 if keep_class_token else self.class_tokens
        self.register_buffer("mean", 255 * torch.tensor(self.spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(self.spec.std).view(1, 3, 1, 1), persistent=False)

    @property
    def read_layers(self) -> nn.ModuleList:
        """The encoder layers that the last selected hidden state depends on."""
        return self.parts.layers[: self.selected[-1]]

    def reached_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the selected hidden states depend on.

        Layers above the last selected one, the final norm and a pooling head get no gradient and never change.
        """
        return self.parts.parameters(self.selected[-1])

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalised images, floats as the tower was trained on, of uint8 pixels [B, 3, H, W]."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        """The selected hidden states of the patch tokens, [S, B, N, Dv], of uint8 pixels [B, 3, H, W].

        Runs without autograd unless a parameter that they depend on is trained.
        """
        trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.reached_parameters())
        with torch.set_grad_enabled(trains):
            return self._hidden_states(pixels)

    def _hidden_states(self, pixels: Tensor) -> Tensor:
        hidden = self.parts.first_norm(self.parts.embeddings(self.normalise(pixels)))
        kept = [hidden] if self.selected[0] == 0 else []
        for index, layer in enumerate(self.read_layers, start=1):
            if self.checkpoint_activations and torch.is_grad_enabled():
                hidden = checkpoint(self.family.run_layer, layer, hidden, use_reentrant=False)
            else:
                hidden = self.family.run_layer(layer, hidden)
            if index in self.selected:
                kept.append(hidden)
        return torch.stack([state[:, self.dropped_tokens :] for state in kept])
