"""The command line that trains what a configuration says, for people who want to repeat a run."""

import shlex
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


def command_of(config: Config, stages: tuple[int, ...]) -> str | None:
    """The command that trains these stages with this configuration; None where it starts from no recipe.

    Every field that differs from the recipe's is a flag. Of absolute paths the last part alone is written.
    """
    if config.recipe not in RECIPES:
        return None
    usual, given = flatten(RECIPES[config.recipe]()), flatten(config)
    words = ["python", "-m", "hive.train"]
    if config.recipe != Config.recipe:
        words += ["--recipe", config.recipe]
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
    path = Path(str(value)).expanduser()
    return [flag_of(name), path.name if path.is_absolute() else str(value)]
