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
from hive.model_folder import Trained, copy_weights, read_model_folder, read_step
from hive.run_folder import MODEL, START, is_model_folder, load_config, load_model_config
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
    """The trained model of a run folder, or of the folder of an exported model, as `read_trained` finds it.

    `kernel` None takes the run's. `flag` is the flag that named the folder, for messages. Raises `UserError` where the
    folder is neither, holds no trained model yet, or needs something that this machine lacks.
    """
    saved = load_model_config(folder, flag)
    try:
        backend = kernel_for(kernel or saved.kernel, device)
    except UserError as error:
        raise UserError(f"{str(error).removesuffix('.')}; --kernel auto picks one that can.") from error
    trained = read_trained(folder, backend, flag)
    config = dataclasses.replace(trained.config, kernel=backend, checkpoint_activations=False)
    return Run(folder, config, trained.model.to(device).eval(), trained.tokenizer, trained.step)


def read_trained(folder: Path, backend: Kernel, flag: str, checkpoint_activations: bool = False) -> Trained:
    """The trained model in fp32 on the CPU, in training mode.

    `folder` is that of an exported model, or of a run. Of a run it is what was trained for the most steps: the newest
    whole checkpoint, or the exported model.
    """
    exported = folder if is_model_folder(folder) else folder / MODEL
    step = read_step(exported) if is_model_folder(exported) else -1
    path = None
    if exported != folder:
        path = checkpoint.newest(folder / CHECKPOINTS, lambda text: print(f"warning: {text}", file=sys.stderr), step)
    if path is not None:
        return _read_checkpoint(path, folder, backend, flag, checkpoint_activations)
    if step < 0:
        raise UserError(f"{flag} {folder} has no whole checkpoint yet: wait for its first one, or give another run.")
    return read_model_folder(exported, backend, flag, checkpoint_activations)


def _read_checkpoint(path: Path, folder: Path, backend: Kernel, flag: str, checkpoint_activations: bool) -> Trained:
    """The model of a run's checkpoint, built as the run built it."""
    config = dataclasses.replace(load_config(folder, Config, flag), checkpoint_activations=checkpoint_activations)
    loaded = checkpoint.load(path)
    if config.origin is not None:
        start = read_model_folder(folder / START, backend, flag, checkpoint_activations)
        model, tokenizer = start.model, start.tokenizer
    else:
        _check_weights(config, folder, flag)
        tokenizer = load_configured_tokenizer(config.language)
        model = build_model(config, backend, pretrained=False)
    if tokenizer.fingerprint != loaded.fingerprints.get("tokenizer"):
        raise UserError(
            f"{flag} {folder} was trained with another tokenizer than {config.language.tokenizer or 'the one'} that is "
            "found now: put back the one that it began with."
        )
    prefix = "model."
    weights = {name.removeprefix(prefix): value for name, value in loaded.tensors.items() if name.startswith(prefix)}
    copy_weights(model, weights, f"{flag} {folder}")
    return Trained(config, model, tokenizer, loaded.step)


def _check_weights(config: Config, folder: Path, flag: str) -> None:
    """Raises `UserError` for pretrained weights that are not here: the architecture is read from them."""
    for weights, name in ((config.vision.weights, "--vision.weights"), (config.language.weights, "--language.weights")):
        if weights is not None and not is_present(weights):
            raise UserError(f"{flag} {folder} started from weights that are not here: {how_to_get(weights, name)}")


def starting_folder(config: Config, resume: bool) -> Path | None:
    """The folder of the trained model that a run starts from; a resumed run has a copy of its own. None for no such."""
    if config.origin is None:
        return None
    return config.out / START if resume and config.out is not None else Path(config.origin.folder)


def tokenizer_name(folder: Path, flag: str) -> str | None:
    """The name by which `load_tokenizer` loads the tokenizer of a trained model in a folder as `read_trained` reads."""
    exported = next((place for place in (folder, folder / MODEL, folder / START) if is_model_folder(place)), None)
    if exported is not None:
        return str(exported)
    saved = load_config(folder, Config, flag)
    return saved.language.tokenizer or saved.language.weights
