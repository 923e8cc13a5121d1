"""The command line that trains what a configuration says, for people who want to repeat a run."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from hive.config import Config, flag_of
from hive.config_json import flatten
from hive.recipes import RECIPES

OF_THE_MACHINE = frozenset({"recipe", "out", "device", "kernel", "stages"})
"""Fields that a run resolves for its machine and folder, and two that are written by other means."""
TOLD_BY_WEIGHTS = frozenset(
    {
        "family", "image_size", "patch_size", "hidden_size", "layers", "heads", "mlp_size", "kv_heads", "vocab_size",
        "rope_theta", "llama3_rope", "norm_eps", "tied_embeddings",
    }
)  # fmt: skip
"""Fields of a model that are read from its weights where it has any."""


def command_of(config: Config, stages: tuple[int, ...], earlier: Config | None = None) -> str | None:
    """The command that trains these stages with this configuration; None where it starts from no recipe.

    `earlier` is the configuration of the run that --from named, where the run started from one. Every field that
    differs from the recipe's, or from that run's, is a flag. Of absolute paths the last part alone is written.
    """
    words = ["python", "-m", "hive.train"]
    if config.origin is not None and earlier is not None:
        words += _flag("from", config.origin.folder)
        same_data = config.data == earlier.data
        usual = flatten(replace(earlier, origin=None, image_root=earlier.image_root if same_data else None))
    elif config.origin is None and config.recipe in RECIPES:
        usual = flatten(RECIPES[config.recipe]())
        words += ["--recipe", config.recipe] if config.recipe != Config.recipe else []
    else:
        return None
    given = flatten(replace(config, origin=None))
    if stages != usual["stages"]:
        words += ["--stages", ",".join(map(str, stages))]
    for name, value in given.items():
        part, _, field = name.rpartition(".")
        told = part in ("vision", "language") and field in TOLD_BY_WEIGHTS and given[f"{part}.weights"] is not None
        if value != usual[name] and name not in OF_THE_MACHINE and not told:
            words += _flag(name, value)
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        part, dot, field = name.rpartition(".")
        return [flag_of(name if value else f"{part}{dot}no-{field}")]
    if isinstance(value, tuple):
        return [flag_of(name), ",".join(map(str, value))]
    return [flag_of(name), "::".join(map(_shorten, str(value).split("::")))]


def _shorten(text: str) -> str:
    path = Path(text).expanduser()
    return path.name if path.is_absolute() else text
