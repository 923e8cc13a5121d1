"""The command line: every field of `VLMConfig` as a typed flag, or a question to a finished model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from hive.errors import UserError
from hive.flags import flags_of, read_flags, spell_out
from hive.train.cli import check_flags, for_range_test, starting_point
from hive.vlm.config import VLMConfig, load_recipe


@dataclass(frozen=True)
class Command:
    """Fine-tunes the pre-trained tower, a connector and a chat model, in LLaVA's two stages (paper, Table 5).

    Without --data it trains on templated questions about the embedded emoji, to show that everything works; for a model
    of your own give --data CHATS.json --image-root PHOTOS/. Every flag overrides the recipe's value."""

    config: Annotated[VLMConfig, tyro.conf.arg(name="")]
    file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE|RUN")] = None
    """TOML or JSON file with fields that differ from the recipe, or a run whose configuration a new run has. Flags
    override it."""
    resume: Path | None = None
    """Run folder to continue; other flags default to that run's values."""
    dry_run: bool = False
    """Print what the run would train and cost, and what is missing; needs no GPU, weights or data."""
    lr_range_test: int | None = None
    """A stage, of which 100 steps are tried at learning rates from 1e-6 to 1: draws the losses and suggests a rate."""
    ask: tuple[Path, str] | None = None
    """An image and a question, answered by --model; nothing is trained."""
    model: Path | None = None
    """The LLaVA folder that answers: RUN/llava."""


PROGRAM = "python -m hive.vlm"


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    words = spell_out(argv, list(flags_of(Command)), PROGRAM)
    base, resume = starting_point(words, load_recipe, VLMConfig)
    command = read_flags(Command, words, PROGRAM, default=Command(base))
    if (command.ask is None) != (command.model is None):
        raise UserError('--ask and --model go together: --ask IMAGE "QUESTION" --model RUN/llava.')
    check_flags(command.config, base, resume)
    return replace(command, config=for_range_test(command.config, command.lr_range_test, resume))
