"""The command line of the evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hive.config import Count, check_ranges
from hive.errors import choose
from hive.evaluate.benchmarks import BENCHMARKS
from hive.flags import read_flags


@dataclass(frozen=True)
class Command:
    """Evaluates a vision-language model on a benchmark of the paper's Table 2, from its official files, offline."""

    model: Path
    """A LLaVA folder: RUN/llava of python -m hive.vlm, or any other of transformers' LlavaForConditionalGeneration."""
    benchmark: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(BENCHMARKS) + "}")]
    """Benchmark to evaluate on."""
    data_root: Path
    """Folder with the benchmark's official files."""
    out: Path | None = None
    """Folder of the predictions; None is runs/evaluation/<model>-<benchmark>. An interrupted evaluation continues."""
    batch_size: Count = 1
    """Questions answered at once; changes speed and memory, and answers at most by rounding."""
    device: str = "auto"
    """"auto" takes the GPU where there is one; or cpu, cuda, cuda:1, mps (Apple's, which "auto" leaves)."""
    report: bool = False
    """Also print how many questions were unanswerable, unparsed or missing an image."""


def parse(argv: list[str]) -> Command:
    """Reads the command line; `--help` and mistyped flags exit, other mistakes raise `UserError`."""
    command: Command = read_flags(Command, argv, "python -m hive.evaluate")
    check_ranges(command)
    choose("--benchmark", command.benchmark, BENCHMARKS)
    return command
