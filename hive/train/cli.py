"""The command line: every field of `Config` as a typed flag on top of a recipe or of the run that is resumed."""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hive.config import AnyConfig, Config, RunConfig, check, flag_of, flatten, from_json, unchanged_additions
from hive.errors import UserError
from hive.recipes import load_recipe

CONFIG_FILE = "config.json"

# Where a run is resumed, these may differ: they change where and how fast it runs, not what it computes. A moved data
# set is recognised by its fingerprint.
FREE_ON_RESUME = {
    "out",
    "stages",
    "device",
    "kernel",
    "data",
    "image_root",
    "data2",
    "image_root2",
    "micro_batch_size",
    "checkpoint_activations",
    "compile",
    "save_every",
    "keep_checkpoints",
    "dataset.workers",
    "dataset.max_bad_share",
}


@dataclass(frozen=True)
class Command:
    """What the person asked for."""

    config: Config
    resume: Path | None
    dry_run: bool
    profile: bool


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    base, resume = starting_point(argv, load_recipe, Config)

    @dataclass(frozen=True)
    class Flags:
        """Pre-trains a vision encoder through a language model. Every flag overrides the recipe's value."""

        config: Annotated[Config, tyro.conf.arg(name="")]
        resume: Path | None = None
        """Run folder to continue; other flags default to that run's own."""
        dry_run: bool = False
        """Print what the run would train and cost, and what is missing; needs no GPU, weights or data."""
        profile: bool = False
        """Record three steps, their parts named: a trace in the run's folder, or ranges for Nsight Systems."""

    flags = tyro.cli(Flags, default=Flags(base), args=argv, prog="python -m hive.train")
    config = flags.config
    check(config)
    if resume is not None:
        check_same(base, config)
    return Command(config, resume, flags.dry_run, flags.profile)


def starting_point(
    argv: list[str], load_recipe: Callable[[str], AnyConfig], kind: type[AnyConfig]
) -> tuple[AnyConfig, Path | None]:
    """What the flags override: the recipe's configuration, or that of the run to resume; and that run's folder."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default="demo")
    first.add_argument("--resume", type=Path)
    known, _ = first.parse_known_args(argv)
    if known.resume is None:
        return load_recipe(known.recipe), None
    # A moved run folder is continued where it lies now.
    return dataclasses.replace(load_config(known.resume, kind), out=known.resume), known.resume


def load_config(run: Path, kind: type[AnyConfig], flag: str = "--resume") -> AnyConfig:
    """The configuration that a run folder was started with; `flag` is what the person named the folder by."""
    try:
        return from_json((run / CONFIG_FILE).read_text(), kind)
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{flag} {run} is no run folder (its {CONFIG_FILE} can't be read: {error}): give the folder "
            "that the run printed when it started."
        ) from error


def fingerprint(config: RunConfig) -> str:
    """SHA-256 of every field that must stay what it was when a run is resumed."""
    left_out = FREE_ON_RESUME | unchanged_additions(config)
    fixed = {name: value for name, value in flatten(config).items() if name not in left_out}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()


def check_same(saved: RunConfig, given: RunConfig) -> None:
    """Raises `UserError` for a flag that would change what a resumed run computes."""
    if given.out != saved.out:
        raise UserError(
            f"--out is {given.out}, but --resume {saved.out} continues a run in its own folder: leave --out out, "
            "or start a new run."
        )
    before, now = flatten(saved), flatten(given)
    changed = [name for name in before if name not in FREE_ON_RESUME and before[name] != now[name]]
    if changed:
        name = changed[0]
        raise UserError(
            f"{flag_of(name)} is {now[name]}, but the run that --resume continues has {before[name]}: leave the flag "
            "out, or start a new run."
        )
