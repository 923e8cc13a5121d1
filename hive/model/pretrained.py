"""Loads towers and language models from a local folder, the hub or a package, or makes fresh ones."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from hive.config import Count, LanguageConfig, TowerConfig, check_language, check_ranges, check_tower
from hive.data.images import ImageSpec
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
from hive.model.families.settings import check_settings
from hive.model.families.tower import check_processor
from hive.model_files import CONFIG, SMOLLM2, WEIGHTS, find_files, how_to_get, is_present, smollm2_file

VISION, LANGUAGE = "--vision.weights", "--language.weights"
LARGEST_SIZE = 2**24
"""Sizes in a config.json are below; making a model of a larger one would take for ever."""


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


def tower_shape(config: TowerConfig, pretrained: bool) -> TowerConfig:
    """`config` with family and sizes of the configured weights, which are not loaded.

    With `pretrained=False` the configured shape stands in for weights that are not here.
    """
    if config.weights is None or not (pretrained or is_present(config.weights)):
        return config
    family, settings = vision_settings(config.weights)
    return family.described(config, settings)


def expected_images(config: TowerConfig) -> ImageSpec:
    """The images that the configured tower expects, or one of the configured shape if its weights are not here."""
    shape = tower_shape(config, pretrained=False)
    return TOWERS[shape.family].image_spec(shape.image_size)


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
    return _load(family, find_files(weights, WEIGHTS, flag), f"{flag} {weights}", settings)


def load_language(weights: str) -> PreTrainedModel:
    """The causal language model in a checkpoint, fp32.

    Raises `UserError` if it is missing, incomplete or of an unknown family.
    """
    family, settings = language_settings(weights)
    source = f"{LANGUAGE} {weights}"
    if weights == SMOLLM2:
        gguf = _smollm2_file()
        return _load(family, gguf.parent, source, None, gguf_file=gguf.name)
    return _load(family, find_files(weights, WEIGHTS, LANGUAGE), source, settings)


def vision_settings(weights: str, flag: str = VISION) -> tuple[TowerFamily, PreTrainedConfig]:
    """The family and the settings of a tower, or of the tower in a whole model.

    `UserError` if there is none, or one that the engine does not compute.
    """
    folder, source = find_files(weights, CONFIG, flag), f"{flag} {weights}"
    content = _read_config(folder, source)
    kind = content["model_type"]
    for family in TOWERS.values():
        whole = family.whole_settings_class
        if kind not in (family.settings_class.model_type, whole and whole.model_type):
            continue
        with _user_errors(source):
            if whole and kind == whole.model_type:
                settings = _part_of_whole(whole, content, source)
            else:
                settings = family.settings_class.from_dict(content)
            config = family.described(TowerConfig(weights=weights), settings)
            _check_sizes(config, source)
            check_settings(settings, family.to_settings(config), content, source, family.free)
        _check_processor(folder, family.image_spec(config.image_size), source)
        return family, settings
    raise UserError(f"{source} is a {kind} model: give a {either(TOWERS.values())} one.")


def language_settings(weights: str) -> tuple[LanguageFamily, PreTrainedConfig]:
    """The family and the settings of a language model.

    `UserError` if the family is unknown, or the model is one that the engine does not compute.
    """
    if weights == SMOLLM2:
        settings = _smollm2_settings()
        return next(family for family in LANGUAGES.values() if settings.model_type in family.readers), settings
    source = f"{LANGUAGE} {weights}"
    content = _read_config(find_files(weights, CONFIG, LANGUAGE), source)
    kind = content["model_type"]
    for family in LANGUAGES.values():
        if kind in family.readers:
            with _user_errors(source):
                settings = family.readers[kind](content, source)
                config = family.described(LanguageConfig(weights=weights), settings)
                _check_sizes(config, source)
                check_settings(settings, family.to_settings(config), content, source)
            return family, settings
    raise UserError(f"{source} is a {kind} model: give a {either(LANGUAGES.values())}.")


def _check_processor(folder: Path, spec: ImageSpec, source: str) -> None:
    """Raises `UserError` where the folder's preprocessor_config.json, if it has one, is of other images than `spec`."""
    path = folder / "preprocessor_config.json"
    if path.is_file():
        try:
            check_processor(dict(json.loads(path.read_text(encoding="utf-8"))), spec, source)
        except UserError:
            raise
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"The preprocessor_config.json of {source} can't be read ({_reason(error)}): give a whole file."
            ) from error


def _part_of_whole(kind: type[PreTrainedConfig], content: dict[str, Any], source: str) -> PreTrainedConfig:
    """The tower's settings in those of a whole model, in whose older files vision_config_dict has the last word."""
    if not content.get("vision_config"):
        raise UserError(f"The config.json of {source} lacks vision_config: give a complete folder.")
    with _no_warnings():  # of the other half's special tokens
        return kind.from_dict(content).vision_config


def _check_sizes(config: TowerConfig | LanguageConfig, source: str) -> None:
    """Raises `UserError` for sizes that are no whole numbers or don't fit together."""
    sizes = {item.name: getattr(config, item.name) for item in fields(config) if item.type == Count}
    for name, value in sizes.items():
        if not isinstance(value, int) or value >= LARGEST_SIZE:
            raise UserError(
                f"The config.json of {source} says that {name} is {value}: give a model with one number there, below "
                f"{LARGEST_SIZE}."
            )
    try:
        check_ranges(config)
        if isinstance(config, TowerConfig):
            check_tower(config)
        else:
            check_language(config)
    except UserError as error:
        reason = str(error).rstrip(".")
        raise UserError(f"The config.json of {source} can't be used ({reason}): give a complete folder.") from error


def _smollm2_file() -> Path:
    gguf = smollm2_file()
    if gguf is None:
        raise UserError(how_to_get(SMOLLM2, LANGUAGE))
    return gguf


@lru_cache(maxsize=1)  # a GGUF file takes seconds to read
def _smollm2_settings() -> PreTrainedConfig:
    gguf = _smollm2_file()
    return AutoConfig.from_pretrained(str(gguf.parent), gguf_file=gguf.name)


def _read_config(folder: Path, source: str) -> dict[str, Any]:
    """The content of a folder's config.json."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(content["model_type"], str):
            raise TypeError("model_type is no text")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{source} holds no readable config.json with a model_type ({_reason(error)}): give a folder in "
            "Hugging Face form."
        ) from error
    return content


@contextmanager
def _user_errors(source: str) -> Iterator[None]:
    """Raises whatever transformers raises about a folder's settings as a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers checks each field in its own way
        raise UserError(
            f"The config.json of {source} can't be used ({_reason(error)}): give a folder in Hugging Face form."
        ) from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Inside, transformers logs nothing but errors."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _load(
    family: TowerFamily | LanguageFamily, folder: Path, source: str, config: PreTrainedConfig | None, **options: Any
) -> PreTrainedModel:
    loader: Any = family.model_class  # transformers' types leave out the report
    try:
        with _no_warnings():  # what it warns of is in the report, and refused below
            model, report = loader.from_pretrained(
                str(folder),
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the report names them; the error that is raised otherwise does not
                local_files_only=True,
                trust_remote_code=False,
                **options,
            )
    except Exception as error:  # a broken file fails in as many ways as there are formats
        raise UserError(
            f"{source} could not be loaded ({_reason(error)}): give a complete folder in Hugging Face form."
        ) from error
    if report["mismatched_keys"]:
        name, in_file, in_model = min(report["mismatched_keys"])
        raise UserError(
            f"{source} has a weight {name} of shape {tuple(in_file)}, but {tuple(in_model)} by its config.json: give a "
            "folder whose files belong together."
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{source} lacks {len(missing)} of the model's weights, {missing[0]} among them: give a complete "
            "checkpoint."
        )
    if extra := sorted(name for name in report["unexpected_keys"] if not re.search(family.unread, name)):
        raise UserError(
            f"{source} has {len(extra)} weights that a model of its config.json has no place for, {extra[0]} among "
            "them: give a folder whose files belong together."
        )
    if isinstance(family, LanguageFamily) and family.sizes(model.config)["tied_embeddings"]:
        parts = family.parts(model)
        if parts.head.weight is not parts.embedding.weight:
            raise UserError(
                f"{source} has an output head that differs from its embedding, but its config.json says that they are "
                "one: correct tie_word_embeddings, or give a folder whose files belong together."
            )
    return model


def _reason(error: Exception) -> str:
    """The first line of the error's message, or of what caused it, without its full stop."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return first_line(cause).rstrip(".:")[:200]
