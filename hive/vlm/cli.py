"""The command line: every field of `VLMConfig` as a typed flag, or a question to a finished model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hive.errors import UserError
from hive.train.cli import check_flags, starting_point
from hive.vlm.config import VLMConfig, load_recipe


@dataclass(frozen=True)
class Command:
    """Fine-tunes the pre-trained tower, a connector and a chat model, in LLaVA's two stages (paper, Table 5).
    Every flag overrides the recipe's value."""

    config: Annotated[VLMConfig, tyro.conf.arg(name="")]
    resume: Path | None = None
    """Run folder to continue; other flags default to that run's values."""
    dry_run: bool = False
    """Print what the run would train and cost, and what is missing; needs no GPU, weights or data."""
    ask: tuple[Path, str] | None = None
    """An image and a question, answered by --model; nothing is trained."""
    model: Path | None = None
    """The LLaVA folder that answers: RUN/llava."""


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    base, resume = starting_point(argv, load_recipe, VLMConfig)
    command = tyro.cli(Command, default=Command(base), args=argv, prog="python -m hive.vlm")
    if (command.ask is None) != (command.model is None):
        raise UserError('--ask and --model go together: --ask IMAGE "QUESTION" --model RUN/llava.')
    check_flags(command.config, base, resume)
    return command
