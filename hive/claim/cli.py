"""The command line of the comparison."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hive.config import Count, check_ranges, numbers_with_commas
from hive.errors import UserError
from hive.flags import read_flags


@dataclass(frozen=True)
class Command:
    """Compares a tower without pre-training with towers that self-attention and HIVE have trained: probes them, asks
    them questions, and tests the differences. The same command again continues."""

    setting: str = "small"
    """small: the demo's models, for two CPU cores; gpu: 128 pixels, a larger tower, SmolLM2-135M where it is
    installed."""
    seeds: Annotated[tuple[int, ...], numbers_with_commas("0,1,2")] = (0, 1, 2)
    """Seeds, with commas between; every tower is trained once for each."""
    ablations: bool = False
    """Also train the ablations of HIVE."""
    only: Annotated[str | None, tyro.conf.arg(metavar="NAME,...")] = None
    """Only these rows and the blind baseline; --dry-run lists the rows."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that tools/build_emoji.py wrote; None is the embedded set, and emoji-128 for the gpu setting."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of all runs and tables; None is runs/claim-SETTING."""
    max_steps: Count | None = None
    """Largest number of steps in a stage, for a quick look."""
    device: str = "auto"
    """"auto" takes the GPU where there is one; or cpu, cuda, cuda:1, mps (Apple's, which "auto" leaves)."""
    dry_run: bool = False
    """Print what would be trained and what it costs."""


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    command: Command = read_flags(Command, argv, "python -m hive.claim")
    check_ranges(command)
    seeds = command.seeds
    if not all(isinstance(seed, int) and seed < 2**32 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f'--seeds is "{",".join(map(str, seeds))}", which is no list of different seeds such as 0,1,2.')
    return command
