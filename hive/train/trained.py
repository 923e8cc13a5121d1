"""A trained model with its configuration and tokenizer: as training ends, or loaded from a run's folder."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from hive import checkpoint
from hive.config import Config, Kernel
from hive.data.images import ImageSpec
from hive.data.text import Tokenizer, load_configured_tokenizer
from hive.errors import UserError
from hive.model.build import Model, build_model
from hive.model.kernel import kernel_for
from hive.model_files import how_to_get, is_present
from hive.run_folder import load_config
from hive.train.state import CHECKPOINTS


@dataclass(frozen=True)
class Run:
    """The model that a run has trained, with what is needed to use it."""

    folder: Path
    config: Config
    """As the run resolved it, but with the kernel in use now."""
    model: Model
    """The newest checkpoint's weights, fp32, in evaluation mode, on the device asked for."""
    tokenizer: Tokenizer
    step: int
    """Optimiser steps that the weights were trained for, over all stages."""

    @property
    def spec(self) -> ImageSpec:
        """How the tower wants its images."""
        return self.model.tower.spec


def load_run(folder: Path, device: torch.device, kernel: Kernel | None = None, flag: str = "--run") -> Run:
    """The trained model of a run folder, from its newest whole checkpoint.

    `kernel` None takes the run's. `flag` is the flag that named the folder, for messages. Raises `UserError` where the
    folder is no run, has no checkpoint yet, or needs something that this machine lacks.
    """
    saved = load_config(folder, Config, flag)
    try:
        backend = kernel_for(kernel or saved.kernel, device)
    except UserError as error:
        raise UserError(f"{str(error).removesuffix('.')}; --kernel auto picks one that can.") from error
    config = dataclasses.replace(saved, kernel=backend, checkpoint_activations=False)
    for weights, name in ((config.vision.weights, "--vision.weights"), (config.language.weights, "--language.weights")):
        if weights is not None and not is_present(weights):  # the architecture is read from them
            raise UserError(f"{flag} {folder} started from weights that are not here: {how_to_get(weights, name)}")
    path = checkpoint.newest(folder / CHECKPOINTS, lambda sentence: print(f"warning: {sentence}", file=sys.stderr))
    if path is None:
        raise UserError(f"{flag} {folder} has no whole checkpoint yet: wait for its first one, or give another run.")
    loaded = checkpoint.load(path)
    tokenizer = load_configured_tokenizer(config.language)
    if tokenizer.fingerprint != loaded.fingerprints.get("tokenizer"):
        raise UserError(
            f"{flag} {folder} was trained with another tokenizer than {config.language.tokenizer or 'the one'} that is "
            "found now: put back the one that it began with."
        )
    model = build_model(config, backend, pretrained=False)
    _copy_weights(model, loaded.tensors, folder, flag)
    return Run(folder, config, model.to(device).eval(), tokenizer, loaded.step)


@torch.no_grad()
def _copy_weights(model: Model, tensors: dict[str, torch.Tensor], folder: Path, flag: str) -> None:
    for name, parameter in model.named_parameters():
        value = tensors.get(f"model.{name}")
        if value is None or value.shape != parameter.shape:
            raise UserError(
                f"The checkpoint of {flag} {folder} does not fit its config.json ({name} is missing or of another "
                "shape): restore the config.json that the run wrote."
            )
        parameter.copy_(value)
