"""python -m hive.data: checks a whole data set with the flags of the run that would train on it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic

import tyro

from hive.command import exit_code, open_console
from hive.config import AnyConfig, Config, RunConfig
from hive.flags import flags_of, spell_out
from hive.recipes import load_recipe
from hive.train.cli import check_flags, model_to_start_from, starting_point
from hive.vlm.config import VLMConfig
from hive.vlm.config import load_recipe as load_vlm_recipe

if TYPE_CHECKING:
    from hive.data.report import DataSet
    from hive.data.summary import Reading
    from hive.train.task import TrainingSet

INTERRUPTED = 130  # exit code


PROGRAM = "python -m hive.data"


@dataclass(frozen=True, kw_only=True)
class _Own:
    """The flags that are not fields of a run's configuration."""

    file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE|RUN")] = None
    """TOML or JSON file with fields that differ from the recipe, or a run with that data. Flags override it."""
    resume: Path | None = None
    """Run folder whose data is checked; other flags default to that run's values."""
    start: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN")] = None
    """As with hive.train: other flags default to that run's values."""
    decode: bool = False
    """Decode every image; without it only their headers are read, which show most of what can be wrong."""
    vlm: bool = False
    """Check the conversations of python -m hive.vlm."""


@dataclass(frozen=True, kw_only=True)
class Command(_Own, Generic[AnyConfig]):
    """Reads a whole data set as a run would, lists everything that is wrong with it, and draws some of its pairs.
    The other flags are those of the run: write hive.data in place of hive.train. --out is the folder for the list of
    problems and the contact sheet."""

    config: Annotated[AnyConfig, tyro.conf.arg(name="")]


def parse(argv: list[str]) -> Command[Config] | Command[VLMConfig]:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    flags = dict.fromkeys(flag for kind in (Config, VLMConfig, _Own) for flag in flags_of(kind))
    words = spell_out(argv, list(flags), PROGRAM)
    if "--vlm" in words:
        base, resume = starting_point(words, load_vlm_recipe, VLMConfig)
        chats = tyro.cli(Command[VLMConfig], default=Command(config=base), args=words, prog=PROGRAM)
        check_flags(chats.config, base, resume)
        return chats
    pretraining, resume = starting_point(words, load_recipe, Config)
    pretraining = model_to_start_from(words, pretraining, resume)
    command = tyro.cli(Command[Config], default=Command(config=pretraining), args=words, prog=PROGRAM)
    check_flags(command.config, pretraining, resume)
    return command


def run(command: Command[Config] | Command[VLMConfig]) -> int:
    """Runs what the command line asked for; returns 0 where a run would start, and 2 where it would not."""
    # torch and transformers take seconds to import, and --help and mistyped flags need neither
    from hive.data.report import check_set
    from hive.run_folder import make_run_folder

    console, config = open_console(), command.config
    reading, sets = conversations(config) if isinstance(config, VLMConfig) else captions(config)
    folder: Path | None = None
    code = 0
    for number, data in enumerate(sets, 1):
        with console.status(f"opening {data.data}"):
            pairs = data.open()
        folder = folder or make_run_folder(config, "check")
        place = folder / f"data{number}" if len(sets) > 1 else folder
        place.mkdir(exist_ok=True)
        code = max(code, check_set(data, pairs, reading, command.decode, place, console))
        if code == INTERRUPTED:
            break
    return code


def captions(config: Config) -> "tuple[Reading, list[DataSet]]":
    """How a run of pre-training reads its pairs, and its data set."""
    from hive.data.pairs import open_pairs
    from hive.data.report import DataSet
    from hive.data.summary import Reading
    from hive.data.text import load_configured_tokenizer
    from hive.model.pretrained import expected_images
    from hive.train.pretraining import divide

    tokenizer, spec = load_configured_tokenizer(config.language), expected_images(config.vision)
    reading = Reading(tokenizer, spec, config.dataset, "pairs", "captions", "python -m hive.data")
    return reading, [
        DataSet(
            config.data,
            lambda: open_pairs(config.data, config.image_root, config.dataset),
            lambda pairs: _epoch(config, divide(config, pairs), config.stages, reading),
        )
    ]


def conversations(config: VLMConfig) -> "tuple[Reading, list[DataSet]]":
    """How a run of fine-tuning reads its conversations, and its data sets: one, or one a stage."""
    from hive.data.report import DataSet
    from hive.data.summary import Reading
    from hive.model.pretrained import expected_images
    from hive.vlm.fine_tuning import divide, load_configured_chat_tokenizer, open_whole, source

    chat, _ = load_configured_chat_tokenizer(config, pretrained=False)
    spec = expected_images(config.vision)
    reading = Reading(chat, spec, config.dataset, "conversations", "conversations", "python -m hive.data --vlm")
    stages_of: dict[tuple[str, Path | None, str], list[int]] = {}
    for stage in config.stages:
        stages_of.setdefault(source(config, stage), []).append(stage)

    def data_set(data: str, stages: Sequence[int]) -> DataSet:
        return DataSet(
            data,
            lambda: open_whole(config, stages[0]),
            lambda whole: _epoch(config, divide(config, stages[0], whole), stages, reading),
        )

    return reading, [data_set(data, stages) for (data, _, _), stages in stages_of.items()]


def _epoch(config: RunConfig, data: "TrainingSet", stages: Sequence[int], reading: "Reading") -> str:
    from hive.data.summary import describe_epoch

    sizes = {stage: config.schedule(stage).batch_size for stage in stages}
    return describe_epoch(reading.unit, data.epoch_pairs, sizes, data.heldout, data.pairs)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return exit_code(lambda: run(parse(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
