"""The command line: every field of `Config` as a typed flag on top of a recipe or of the run that is resumed."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hive.config import AnyConfig, Config, RunConfig, check
from hive.config_file import read_config_file
from hive.errors import UserError
from hive.flags import flags_of, read_flags, spell_out
from hive.recipes import load_recipe
from hive.run_folder import check_same, check_same_model, load_config, starting_config


@dataclass(frozen=True)
class Command:
    """Pre-trains a vision encoder through a language model. Every flag overrides the recipe's value."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE|RUN")] = None
    """TOML or JSON file with fields that differ from the recipe, or a run whose configuration a new run has. Flags
    override it."""
    resume: Path | None = None
    """Run folder to continue; other flags default to that run's values."""
    start: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN")] = None
    """Folder of a run, or its model/: a new run starts from its whole trained model. Other flags default to that run's
    values; with another --data, --image-root has no default."""
    dry_run: bool = False
    """Print what the run would train and cost, and what is missing; needs no GPU, weights or data."""
    profile: bool = False
    """Record three steps, their parts named: a trace in the run's folder, or ranges for Nsight Systems."""
    lr_range_test: int | None = None
    """A stage, of which 100 steps are tried at learning rates from 1e-6 to 1: draws the losses and suggests a rate."""


PROGRAM = "python -m hive.train"


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    words = spell_out(argv, list(flags_of(Command)), PROGRAM)
    base, resume = starting_point(words, load_recipe, Config)
    base = model_to_start_from(words, base, resume)
    command = read_flags(Command, words, PROGRAM, default=Command(base))
    check_flags(command.config, base, resume)
    if command.start is not None:
        check_same_model(base, command.config)
    return dataclasses.replace(command, config=for_range_test(command.config, command.lr_range_test, resume))


@dataclass(frozen=True)
class _From:
    """The flags that decide the other flags' defaults in a run that starts from a trained model."""

    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    data: str | None = None
    file: Annotated[Path | None, tyro.conf.arg(name="config")] = None


def model_to_start_from(argv: list[str], base: Config, resume: Path | None) -> Config:
    """The configuration that the flags override: that of the run which --from names, or else `base`."""
    given, _ = tyro.cli(_From, args=argv, add_help=False, return_unknown_args=True)
    if given.start is None:
        return base
    if resume is not None:
        raise UserError("--from starts a new run and --resume continues one: give one of them.")
    if given.file is not None:
        raise UserError("--from brings the configuration of its run, so that --config has no place: give one of them.")
    config = starting_config(given.start)
    return config if given.data is None else dataclasses.replace(config, image_root=None)  # it was the other data's


@dataclass(frozen=True)
class _Start:
    """The flags that decide the other flags' defaults."""

    recipe: str | None = None
    file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    resume: Path | None = None


def starting_point(
    argv: list[str], load_recipe: Callable[[str], AnyConfig], kind: type[AnyConfig]
) -> tuple[AnyConfig, Path | None]:
    """(the configuration that the flags override, the folder of the run to resume or None).

    The configuration is the recipe's, with what --config changes in it, or that of the run to resume. The flags in
    `argv` are written out.
    """
    known, _ = tyro.cli(_Start, args=argv, add_help=False, return_unknown_args=True)
    if known.resume is not None:
        if known.file is not None:
            raise UserError(
                "--config is for a new run, but --resume continues one with its own configuration: leave one out."
            )
        # A run folder may have been moved: the run is continued where the folder is now.
        return dataclasses.replace(load_config(known.resume, kind), out=known.resume), known.resume
    if known.file is not None:
        return read_config_file(known.file, known.recipe, load_recipe, kind), None
    return load_recipe(known.recipe or kind.recipe), None


def for_range_test(config: AnyConfig, stage: int | None, resume: Path | None) -> AnyConfig:
    """The configuration of --lr-range-test, which runs one stage alone; unchanged without that flag."""
    if stage is None:
        return config
    known = range(1, 1 + len(config.schedules()))
    if stage not in known:
        raise UserError(f"--lr-range-test is {stage}, but it must be a stage: {', '.join(map(str, known))}.")
    if resume is not None:
        raise UserError("--lr-range-test and --resume exclude each other: the test trains a model of its own.")
    return dataclasses.replace(config, stages=(stage,))


def check_flags(config: RunConfig, base: RunConfig, resume: Path | None) -> None:
    """Raises `UserError` for values that can't work, or that a resumed run must not change; `base` has the defaults."""
    check(config)
    if config.kernel != RunConfig.kernel:
        from hive.model.kernel import check_kernel_name  # imports torch, for which --help does not wait

        check_kernel_name(config.kernel)
    if resume is not None:
        check_same(base, config)
