"""Projectors from the tower's width to the language model's: HIVE's, its ablation without norm and skip, LLaVA's."""

import torch
from torch import Tensor, nn

from hive_kernels import residual_projector


class ResidualProjector(nn.Module):
    """One projector per selected hidden state, all in one batched call (paper, section 3.2).

    n = LayerNorm(x); out = skip(n) + W2 gelu(W1 n + b1) + b2, with skip a linear map, or the identity where Dv = D.
    """

    def __init__(self, selected: int, vision_width: int, width: int, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.norm_weight = nn.Parameter(torch.ones(selected, vision_width))
        self.norm_bias = nn.Parameter(torch.zeros(selected, vision_width))
        self.fc1_weight = nn.Parameter(_unit_gain(selected, vision_width, width))
        self.fc1_bias = nn.Parameter(torch.zeros(selected, width))
        self.fc2_weight = nn.Parameter(_unit_gain(selected, width, width))
        self.fc2_bias = nn.Parameter(torch.zeros(selected, width))
        if vision_width == width:
            self.skip_weight = self.skip_bias = None
        else:
            self.skip_weight = nn.Parameter(_unit_gain(selected, vision_width, width))
            self.skip_bias = nn.Parameter(torch.zeros(selected, width))

    def forward(self, features: Tensor) -> Tensor:
        """Projected features [S, B, N, D] of [S, B, N, Dv]."""
        selected, samples, patches, _ = features.shape
        out = residual_projector(
            features.flatten(1, 2),
            self.norm_weight,
            self.norm_bias,
            self.fc1_weight,
            self.fc1_bias,
            self.fc2_weight,
            self.fc2_bias,
            self.skip_weight,
            self.skip_bias,
            backend=self.backend,
        )
        return out.view(selected, samples, patches, -1)


class LayerwiseMLPProjector(nn.Module):
    """The ablation without norm and skip: W2 gelu(W1 x + b1) + b2 per selected hidden state, in batched products."""

    skip_weight = None

    def __init__(self, selected: int, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1_weight = nn.Parameter(_unit_gain(selected, vision_width, width))
        self.fc1_bias = nn.Parameter(torch.zeros(selected, 1, width))
        self.fc2_weight = nn.Parameter(_unit_gain(selected, width, width))
        self.fc2_bias = nn.Parameter(torch.zeros(selected, 1, width))

    def forward(self, features: Tensor) -> Tensor:
        """Projected features [S, B, N, D] of [S, B, N, Dv]."""
        hidden = nn.functional.gelu(torch.baddbmm(self.fc1_bias, features.flatten(1, 2), self.fc1_weight))
        return torch.baddbmm(self.fc2_bias, hidden, self.fc2_weight).unflatten(1, features.shape[1:3])


class MLPProjector(nn.Sequential):
    """LLaVA's connector: Linear, GELU, Linear; [..., Dv] to [..., D]."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__(nn.Linear(vision_width, width), nn.GELU(), nn.Linear(width, width))


def _unit_gain(*shape: int) -> Tensor:
    """Normal weights [..., in, out] that keep the variance, since the host's key projection expects normed input."""
    return torch.randn(shape) * shape[-2] ** -0.5
