"""The families of towers and language models that the engine runs.

A family is a module here, under the name that `hive.config` lists in `TowerFamilyName` or `LanguageFamilyName`. Its
`FAMILY` holds everything that the engine needs to know about it. Nothing outside this folder names a family's classes.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import get_args

from transformers import PreTrainedModel

from hive.config import LanguageConfig, LanguageFamilyName, TowerConfig, TowerFamilyName
from hive.data.images import ImageSpec
from hive.model.families.language import LanguageFamily
from hive.model.families.tower import TowerFamily

TOWERS: dict[str, TowerFamily] = {
    name: import_module(f"{__name__}.{name}").FAMILY for name in get_args(TowerFamilyName)
}
LANGUAGES: dict[str, LanguageFamily] = {
    name: import_module(f"{__name__}.{name}").FAMILY for name in get_args(LanguageFamilyName)
}


def tower_family(model: PreTrainedModel) -> TowerFamily:
    """The tower's family."""
    return next(family for family in TOWERS.values() if isinstance(model, family.model_class))


def language_family(model: PreTrainedModel) -> LanguageFamily:
    """The language model's family."""
    return next(family for family in LANGUAGES.values() if isinstance(model, family.model_class))


def fresh_vision(config: TowerConfig) -> PreTrainedModel:
    """A tower of the configured family and shape with transformers' initialisation."""
    family = TOWERS[config.family]
    return family.model_class(family.to_settings(config))


def fresh_language(config: LanguageConfig) -> PreTrainedModel:
    """A language model of the configured family and shape with transformers' initialisation."""
    family = LANGUAGES[config.family]
    return family.model_class(family.to_settings(config))


def image_spec(vision: PreTrainedModel) -> ImageSpec:
    """The size, resizing and normalisation of the images that the tower expects."""
    family = tower_family(vision)
    return family.image_spec(family.described(TowerConfig(), vision.config).image_size)


def either(families: Iterable[TowerFamily | LanguageFamily]) -> str:
    """The families' titles joined for a sentence: "CLIP or SigLIP"."""
    *others, last = (family.title for family in families)
    return f"{', '.join(others)} or {last}" if others else last
