"""The command line: every field of `Config` as a typed flag on top of a recipe or of the run that is resumed."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hive.config import AnyConfig, Config, RunConfig, check
from hive.recipes import load_recipe
from hive.run_folder import check_same, load_config


@dataclass(frozen=True)
class Command:
    """Pre-trains a vision encoder through a language model. Every flag overrides the recipe's value."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    resume: Path | None = None
    """Run folder to continue; other flags default to that run's values."""
    dry_run: bool = False
    """Print what the run would train and cost, and what is missing; needs no GPU, weights or data."""
    profile: bool = False
    """Record three steps, their parts named: a trace in the run's folder, or ranges for Nsight Systems."""


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    base, resume = starting_point(argv, load_recipe, Config)
    command = tyro.cli(Command, default=Command(base), args=argv, prog="python -m hive.train")
    check_flags(command.config, base, resume)
    return command


@dataclass(frozen=True)
class _Start:
    """The two flags that decide the other flags' defaults."""

    recipe: str = "demo"
    resume: Path | None = None


def starting_point(
    argv: list[str], load_recipe: Callable[[str], AnyConfig], kind: type[AnyConfig]
) -> tuple[AnyConfig, Path | None]:
    """(the configuration that the flags override, the folder of the run to resume or None).

    The configuration is the recipe's, or that of the run to resume.
    """
    known, _ = tyro.cli(_Start, args=argv, add_help=False, return_unknown_args=True)
    if known.resume is None:
        return load_recipe(known.recipe), None
    # A run folder may have been moved: the run is continued where the folder is now.
    return dataclasses.replace(load_config(known.resume, kind), out=known.resume), known.resume


def check_flags(config: RunConfig, base: RunConfig, resume: Path | None) -> None:
    """Raises `UserError` for values that can't work, or that a resumed run must not change; `base` has the defaults."""
    check(config)
    if config.kernel != base.kernel:
        from hive.model.kernel import check_kernel_name  # imports torch, for which --help does not wait

        check_kernel_name(config.kernel)
    if resume is not None:
        check_same(base, config)
