"""Numbers that describe maps: entropy, effective area, share of energy."""

import torch
from torch import Tensor


def entropy(weights: Tensor) -> Tensor:
    """Returns the entropy, in nats, of attention maps over patches [..., h, w], each scaled to sum to 1: fp64 [...]."""
    flat = weights.double().flatten(-2)
    return torch.special.entr(flat / flat.sum(-1, keepdim=True)).sum(-1)


def effective_area(weights: Tensor) -> Tensor:
    """Returns exp(entropy) / patches of maps [..., h, w]: the share of the image that a uniform map so wide covers.

    It is 1 / patches where one patch has all attention, and 1 where all patches have the same.
    """
    return entropy(weights).exp() / (weights.shape[-2] * weights.shape[-1])


def energy_share(maps: Tensor) -> Tensor:
    """Returns each layer's share of the summed squares, fp64 [L], of maps of L2 norms [L, h, w]; 0 if all are 0."""
    energy = maps.double().square().flatten(1).sum(1)
    return energy / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)


def unit_range(maps: Tensor) -> Tensor:
    """Returns maps [..., h, w], each scaled from 0 at its minimum to 1 at its maximum; a constant map becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
