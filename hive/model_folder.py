"""The folder of a whole trained model, RUN/model: written and compared, and read back without anything else.

It holds the weights as safetensors, fp32, under their names in the checkpoints; a tokenizer that transformers reads
too; and a config.json with the run's configuration, the steps that it took, and transformers' settings of tower and
language model. No code is in it, and nothing that it names is looked for.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedConfig

from hive.config import Config
from hive.config_json import from_json, to_json
from hive.data.text import Batch, Tokenizer, load_tokenizer, pack
from hive.errors import UserError, first_line
from hive.export.loading import evaluating
from hive.export.place import SEAL, replacing, save_weights, seal, write_json
from hive.model.build import Model, assemble
from hive.model.families import LANGUAGES, TOWERS
from hive.run_folder import CONFIG_FILE, MODEL_TYPE

FORMAT = 1
WEIGHTS = "model.safetensors"
_RESTORE = "restore the files that the run wrote, or give its run folder"
PROBES = ("A test.", "Of what was written, read back and compared.")


@dataclass(frozen=True)
class Trained:
    """A trained model with its configuration and tokenizer."""

    config: Config
    """Of the run that trained it."""
    model: Model
    """fp32, on the CPU where it was read from a file."""
    tokenizer: Tokenizer
    step: int
    """Optimiser steps that the weights were trained for, over all stages of the run."""


def export_model(trained: Trained, folder: Path) -> None:
    """Writes a whole model to `folder`, weights in fp32: what `read_model_folder` reads.

    It is written beside `folder`, loaded back, and compared: every weight, and the losses of a fixed batch. Only then
    does it replace an earlier export. Raises `RuntimeError` when the comparison fails and `UserError` when `folder`
    holds something else or can't be written; both leave `folder` as it was.
    """
    with replacing(folder, "The model") as temporary:
        _write(trained, temporary)
        _compare(trained, temporary)


def digest(model: Model) -> str:
    """SHA-256 over the names and values of all weights."""
    total = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        value = parameter.detach().to("cpu", torch.float32).contiguous()
        total.update(f"{name} {tuple(value.shape)} ".encode())
        total.update(value.view(-1).numpy().data)
    return total.hexdigest()


def _write(trained: Trained, folder: Path) -> None:
    model, tokenizer = trained.model, trained.tokenizer
    content = {
        "model_type": MODEL_TYPE,
        "format": FORMAT,
        "step": trained.step,
        "run": json.loads(to_json(trained.config)),
        "vision": _settings(model.tower.model.config),
        "language": _settings(model.language.model.config),
    }
    write_json(folder / CONFIG_FILE, content)
    (folder / "tokenizer.json").write_text(tokenizer.backend.to_str(pretty=True), encoding="utf-8")
    named = zip(("bos_token", "eos_token"), (tokenizer.bos_id, *tokenizer.end), strict=False)  # one or no end
    names = {name: tokenizer.backend.id_to_token(number) for name, number in named}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    weights = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in model.named_parameters()}
    save_weights(weights, folder / WEIGHTS, {"format": "pt", SEAL: seal(folder)})


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    """Transformers' settings of tower or language model, without the place that it was loaded from."""
    settings = {**config.to_dict(), "dtype": "float32"}
    for key in ("_name_or_path", "torch_dtype", "output_hidden_states"):
        settings.pop(key, None)
    return settings


def read_step(folder: Path) -> int:
    """Optimiser steps that the exported model in `folder` was trained for."""
    return _read_config(folder, "The model")["step"]


def read_model_folder(folder: Path, backend: str, flag: str, checkpoint_activations: bool = False) -> Trained:
    """The model in `folder`, in training mode; `flag` named the folder, for the `UserError` where it is damaged."""
    content = _read_config(folder, flag)
    config = from_json(json.dumps(content["run"]), Config)
    config = replace(config, checkpoint_activations=checkpoint_activations)
    tower, language = TOWERS[config.vision.family], LANGUAGES[config.language.family]
    torch.manual_seed(config.seed)  # the weights are replaced; the numbers that follow are the same each time
    try:
        vision = tower.model_class(tower.settings_class.from_dict(content["vision"]))
        causal_class: Any = language.model_class
        causal = causal_class(causal_class.config_class.from_dict(content["language"]))
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:  # transformers and safetensors raise many kinds
        raise UserError(f"{flag} {folder} can't be read ({first_line(error):.200}): {_RESTORE}.") from error
    model = assemble(config, backend, vision, causal)
    copy_weights(model, tensors, f"{flag} {folder}")
    return Trained(config, model, load_tokenizer(str(folder)), content["step"])


@torch.no_grad()
def copy_weights(model: Model, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Copies the tensors into the model's weights by name; `UserError` where names or shapes are not the same."""
    parameters = dict(model.named_parameters())
    shapes, given = ({name: value.shape for name, value in part.items()} for part in (parameters, tensors))
    if different := sorted(name for name in {*shapes, *given} if shapes.get(name) != given.get(name)):
        raise UserError(
            f"What {source} holds does not fit its config.json ({different[0]} is missing, too many or of another "
            "shape): restore the files that the run wrote."
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def _read_config(folder: Path, flag: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / CONFIG_FILE).read_text())
        if content["model_type"] == MODEL_TYPE and content["format"] != FORMAT:
            raise UserError(f"{flag} {folder} has the format {content['format']}, but this version reads {FORMAT}.")
        if not ({"run", "vision", "language"} <= content.keys() and isinstance(content["step"], int)):
            raise ValueError("it is no whole model's")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{flag} {folder} has no readable {CONFIG_FILE} ({error!s:.200}): {_RESTORE}.") from error
    return content


def _compare(trained: Trained, folder: Path) -> None:
    """Raises `RuntimeError` unless the folder has the model's weights and tokenizer, and computes the same losses."""
    model, tokenizer = trained.model, trained.tokenizer
    try:
        loaded = read_model_folder(folder, model.language.backend, "the folder")
    except UserError as error:
        raise RuntimeError(f"The exported model doesn't load back: {error}") from error
    if loaded.config != replace(trained.config, checkpoint_activations=False):
        raise RuntimeError("The exported model's configuration is not that of the trained one.")
    if loaded.tokenizer.fingerprint != tokenizer.fingerprint:
        raise RuntimeError("The exported model's tokenizer is not that of the trained one.")
    read = dict(loaded.model.named_parameters())
    weights = {name: value.detach().to("cpu", torch.float32) for name, value in model.named_parameters()}
    if wrong := [name for name, value in weights.items() if not torch.equal(value, read[name])]:
        raise RuntimeError(f"The exported model's weights are not those of the trained one: {wrong}.")
    device = model.tower.mean.device
    batch = _fixed_batch(tokenizer, model.tower.image_size).to(device)
    for kind in ("parameters", "buffers"):
        for copy, original in zip(getattr(loaded.model, kind)(), getattr(model, kind)(), strict=True):
            copy.data = torch.empty_like(original).copy_(copy)  # the same device and strides give the same rounding
    want, have = _loss(model, batch), _loss(loaded.model, batch)
    if not torch.equal(want, have):
        raise RuntimeError(
            f"The exported model computes something else than the trained one: the loss of a batch is {have.item()} "
            f"instead of {want.item()}."
        )


def _fixed_batch(tokenizer: Tokenizer, size: int) -> Batch:
    """Two texts, each with an image of noise."""
    shape = (len(PROBES), 3, size, size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return pack([(image, tokenizer.encode(text, 77)) for image, text in zip(pixels, PROBES, strict=True)])


def _loss(model: Model, batch: Batch) -> torch.Tensor:
    with evaluating(model.tower.model), evaluating(model.language.model):
        return model(batch)
