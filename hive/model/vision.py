"""The vision tower: transformers' CLIP or SigLIP vision model, run layer by layer up to the last selected one."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPVisionModel, SiglipVisionModel

from hive.data.images import ImageSpec


class VisionTower(nn.Module):
    """Pixels to the selected hidden states of the patch tokens.

    B images, N = `patches` patch tokens an image, S selected hidden states, Dv = `width`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: CLIPVisionModel | SiglipVisionModel,
        selected: tuple[int, ...],
        spec: ImageSpec,
        checkpoint_activations: bool = False,
        keep_class_token: bool = False,
    ) -> None:
        """`selected`: rising hidden-state indices, 0 = embeddings, k = output of layer k.

        `keep_class_token` leaves CLIP's class token in front of the patch tokens.
        """
        super().__init__()
        self.model = model
        self.selected = selected
        self.checkpoint_activations = checkpoint_activations
        # The shape as plain integers, which transformers types as anything that a config file may hold.
        self.width: int = model.config.hidden_size
        image, patch = cast(int, model.config.image_size), cast(int, model.config.patch_size)
        self.image_size, self.patch_size = image, patch
        self.patches = (image // patch) ** 2
        self.class_tokens = 1 if isinstance(model, CLIPVisionModel) else 0
        self.dropped_tokens = 0 if keep_class_token else self.class_tokens
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    @property
    def read_layers(self) -> nn.ModuleList:
        """The encoder layers that the last selected hidden state depends on."""
        return self.model.encoder.layers[: self.selected[-1]]

    def reached_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the selected hidden states depend on.

        Layers above the last selected one, the final norm and SigLIP's pooling head get no gradient and never change.
        """
        yield from self.model.embeddings.parameters()
        if hasattr(self.model, "pre_layrnorm"):
            yield from cast(nn.Module, self.model.pre_layrnorm).parameters()
        for layer in self.read_layers:
            yield from layer.parameters()

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] to the floats that the tower was trained on."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 pixels [B, 3, H, W] to the selected hidden states of the patch tokens, [S, B, N, Dv].

        A tower of which nothing trains runs without autograd.
        """
        trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.reached_parameters())
        with torch.set_grad_enabled(trains):
            return self._hidden_states(pixels)

    def _hidden_states(self, pixels: Tensor) -> Tensor:
        hidden = self.model.embeddings(self.normalise(pixels))
        if hasattr(self.model, "pre_layrnorm"):  # CLIP's own spelling
            hidden = cast(nn.Module, self.model.pre_layrnorm)(hidden)
        kept = [hidden] if self.selected[0] == 0 else []
        for index, layer in enumerate(self.read_layers, start=1):
            if self.checkpoint_activations and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, None, use_reentrant=False)
            else:
                hidden = layer(hidden, None)
            if index in self.selected:
                kept.append(hidden)
        return torch.stack([state[:, self.dropped_tokens :] for state in kept])
