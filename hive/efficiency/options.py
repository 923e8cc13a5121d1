"""The command line of python -m hive.efficiency."""

import dataclasses
from pathlib import Path
from typing import Literal

from hive.config import Config, Kernel, Stages
from hive.errors import UserError
from hive.recipes import PAPER, demo, load_recipe


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares HIVE with self-attention: Tables 6 to 9 of the paper, and how cost grows.

    Writes efficiency.json, efficiency.md and plots.
    """

    recipe: str | None = None
    """A recipe's name; by default the paper's three, and the demo on a CPU, where they would take hours."""
    text_tokens: str = "16,77,data"
    """Tokens a caption, with commas between; "data" are the captions and images of the recipe's data."""
    stages: Stages = Config.stages
    """Stages, with commas between."""
    device: Literal["auto", "cuda", "cpu", "meta"] = "auto"
    """auto is the GPU where there is one, else meta: FLOPs and memory at full size without running anything."""
    samples: int = 32
    """Images in the micro-batch of a step."""
    runs: int = 5
    """Timed runs of each step."""
    kernel: Kernel = "auto"
    """The kernels of HIVE and of this engine's baseline: auto, or one that `python -m hive_kernels.backends` lists."""
    data: str | None = None
    """Pairs for "data" instead of the recipe's: "embedded" or a path, as for hive.train."""
    scaling: bool = True
    """Also vary visual tokens, text tokens, layers, batch and language model one by one."""
    fit: bool = True
    """Also look for the biggest micro-batches that fit into 24, 48 and 80 GiB."""
    out: Path = Path("runs/efficiency")
    """Folder for what is written."""

    def configs(self, device: str) -> list[Config]:
        """Returns the recipes to compare on a device of this type, with `data` in place of theirs where it is given."""
        if self.recipe is not None:
            configs = [load_recipe(self.recipe)]
        else:
            configs = [recipe() for recipe in ((demo,) if device == "cpu" else PAPER)]
        if self.data is None:
            return configs
        return [dataclasses.replace(config, data=self.data, image_root=None) for config in configs]

    def text_names(self) -> list[str]:
        """Returns the items of `text_tokens`; raises `UserError` for one that is neither data nor 1 to 2048."""
        names = self.text_tokens.split(",")
        if not all(name == "data" or (name.isdecimal() and 0 < int(name) <= 2048) for name in names):
            raise UserError(
                f'--text-tokens is "{self.text_tokens}", but it must be numbers from 1 to 2048 or the word data, with '
                "commas between, such as 16,77,data."
            )
        return list(dict.fromkeys(names))

    def stage_numbers(self) -> tuple[int, ...]:
        """Returns the stages in order; raises `UserError` for one that does not exist."""
        if not set(self.stages) <= set(Config.stages):
            given, known = (",".join(map(str, stages)) for stages in (self.stages, Config.stages))
            raise UserError(f'--stages is "{given}", but it must be some of {known}, such as {known[2:]}.')
        return tuple(sorted(set(self.stages)))

    def check(self) -> None:
        """Raises `UserError` for values out of range, and for --data where --text-tokens does not name data."""
        if self.data is not None and "data" not in self.text_names():
            raise UserError(f"--data is {self.data}, but --text-tokens {self.text_tokens} has no data in it: add it.")
        for name, value in (("samples", self.samples), ("runs", self.runs)):
            if not 0 < value <= 4096:
                raise UserError(f"--{name} is {value}, but it must be from 1 to 4096.")
