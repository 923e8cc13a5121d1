"""What the pictures show, as numbers."""

import torch
from torch import Tensor


def entropy(weights: Tensor) -> Tensor:
    """Entropy in nats of attention over the patches [..., h, w], each map scaled to sum to 1: [...] in fp64."""
    flat = weights.double().flatten(-2)
    return torch.special.entr(flat / flat.sum(-1, keepdim=True)).sum(-1)


def effective_area(weights: Tensor) -> Tensor:
    """exp(entropy) / patches of maps [..., h, w]: the share of the image that a uniform map as spread out would cover.

    1 / patches where one patch takes all, 1 where all take the same.
    """
    return entropy(weights).exp() / (weights.shape[-2] * weights.shape[-1])


def energy_share(maps: Tensor) -> Tensor:
    """Each layer's share of the squared gradient norm: maps of L2 norms [L, h, w] to fp64 [L], 0 without gradient."""
    energy = maps.double().square().flatten(1).sum(1)
    return energy / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)


def unit_range(maps: Tensor) -> Tensor:
    """Maps [..., h, w] from 0 at their own minimum to 1 at their own maximum; a constant map is 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
