"""Gradient maps: norms of the caption loss's gradient at each encoder layer's patch tokens (figures 2, 5 to 11)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hive.data.text import Batch
from hive.model.build import Model
from hive.model.vision import VisionTower


def gradient_maps(model: Model, batch: Batch) -> Tensor:
    """Returns the L2 norm over channels of d loss / d (output of layer k), for every patch token: fp32 [L, h, w].

    `batch` holds one pair, on the model's device; the loss is summed over its caption's tokens. L counts every encoder
    layer; those above the last hidden state that is read get no gradient, and their maps are 0. The class token is
    left out. Weights, their `requires_grad` and their `.grad` are not changed.
    """
    assert batch.samples == 1
    tower = model.tower
    device = batch.pixels.device
    side = tower.image_size // tower.patch_size
    maps = torch.zeros(len(tower.parts.layers), side, side, device=device)
    with _enable_gradients(tower), _record_outputs(tower) as outputs, torch.enable_grad():
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(batch)
        states = list(outputs)  # a layer that is recomputed in the backward pass appends again
        assert len(states) == len(tower.read_layers)
        gradients = torch.autograd.grad(loss, states) if states else ()
    for layer, gradient in enumerate(gradients):
        maps[layer] = gradient[0, tower.class_tokens :].float().norm(dim=-1).view(side, side)
    return maps


@contextmanager
def _enable_gradients(tower: VisionTower) -> Iterator[None]:
    """Makes the tower's frozen parameters require gradients until the block ends, so that autograd records it."""
    frozen = [parameter for parameter in tower.reached_parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _record_outputs(tower: VisionTower) -> Iterator[list[Tensor]]:
    """Yields a list that gets the outputs [1, tokens, Dv] of the layers that are read, as they are computed."""
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output))
        for layer in tower.read_layers
    ]
    try:
        # A layer that is compiled already would not call a hook that is registered later.
        with torch.compiler.set_stance("force_eager"):
            yield outputs
    finally:
        for hook in hooks:
            hook.remove()
