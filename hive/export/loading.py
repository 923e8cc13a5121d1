"""Runs and loads models without side effects, for comparisons of an export with what was trained."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

TOLERANCE = 1e-4
"""Of the largest channel. On a CPU the demo's towers gave the same bits in timm 1.0.31 and open_clip 3.3; kernels that
sum in another order move fp32 features by some 1e-6. A wrong weight, norm or activation moves them by more."""


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
    """Inside, transformers shows no progress bars."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model runs eagerly and deterministically, without gradients, autocast or dropout.

    Afterwards every module is in its former mode again.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with (
            torch.no_grad(),
            torch.autocast(model.device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        for module, training in modes:
            module.training = training


def probe_image(model: PreTrainedModel) -> Tensor:
    """A fixed normalised image [1, 3, H, W] of the tower's size, on its device."""
    size = model.config.image_size
    image = torch.randn(1, model.config.num_channels, size, size, generator=torch.Generator().manual_seed(0))
    return image.to(model.device, model.dtype)


def hidden_states(model: PreTrainedModel, image: Tensor) -> tuple[Tensor, ...]:
    """All hidden states of a tower, each [1, class token + N, Dv]."""
    with evaluating(model):
        return model(pixel_values=image, output_hidden_states=True).hidden_states


def check_same(name: str, got: Tensor, expected: Tensor) -> None:
    """Raises `RuntimeError` where `got`, computed by the program `name`, differs from `expected`."""
    difference = (got - expected).abs().max().item() if got.shape == expected.shape else float("inf")
    if not difference <= TOLERANCE * expected.abs().max().item():
        raise RuntimeError(f"The export computes something else in {name}: its features differ by {difference:.2g}.")
