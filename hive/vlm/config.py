"""The configuration of a fine-tuning run, and the recipes (paper, Table 5)."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated

from hive.config import FREE, DataConfig, LanguageConfig, Rule, RunConfig, Schedule, Stages, TowerConfig
from hive.errors import UserError, choose
from hive.recipes import LLAMA_1B, SIGLIP_L_384, SMOLLM2_135M

RATES = {"min_lr": 0.0, "clip": 1.0, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999}
"""Cosine to 0, clipping at 1 and no decay, as in Table 5, which lacks the betas: these are LLaVA's."""


@dataclass(frozen=True)
class VLMConfig(RunConfig):
    """The configuration of a whole fine-tuning run. Its samples are conversations."""

    data: Annotated[str, FREE] = "embedded"
    """Stage 1's conversations: "embedded" (templated questions on emoji), or any source that pre-training takes, with
    conversations or captions: LLaVA's JSON or JSON lines, COCO captions, a table, a folder, shards, Parquet."""
    data2: Annotated[str | None, FREE] = None
    """Stage 2's conversations; None takes stage 1's."""
    image_root2: Annotated[Path | None, FREE] = None
    """Folder or LMDB that the image paths of --data2 start from."""
    stages: Annotated[Stages, FREE] = (1, 2)
    """Stages to run, in order: 1 trains the connector, 2 connector and language model. The tower stays as it is."""
    feature_layer: Annotated[int, Rule("-1 or less", lambda value: value <= -1)] = -1
    """The tower's hidden state that is read, from the end: -1 is its last layer's output, before the final norm."""
    vision: TowerConfig = field(default_factory=TowerConfig)
    dataset: DataConfig = field(default_factory=lambda: DataConfig(max_text_tokens=2048))

    @property
    def trains(self) -> str:
        """The method."""
        return "vlm"

    def check_method(self) -> None:
        """Raises `UserError` for --image-root2 without --data2."""
        if self.image_root2 is not None and self.data2 is None:
            raise UserError("--image-root2 goes with --data2, which is not given: leave it out.")


def demo() -> VLMConfig:
    """The tower of `make train`, and a small chat model from scratch, on templated questions; minutes on two CPU cores.

    A language model from scratch knows nothing that stage 1 could align the tower with, so that stage is short.
    """
    return VLMConfig(
        recipe="demo",
        vision=TowerConfig(weights="runs/demo-hive-1/tower"),
        language=LanguageConfig(),
        dataset=DataConfig(max_text_tokens=128, workers=1),
        micro_batch_size=32,
        schedule1=Schedule(epochs=1, batch_size=64, peak_lr=1e-3, **RATES),
        schedule2=Schedule(epochs=6, batch_size=32, peak_lr=1e-3, **RATES),
    )


def smollm2_135m() -> VLMConfig:
    """The demo's data and tower with SmolLM2-135M-Instruct, a pretrained chat model."""
    return VLMConfig(
        recipe="smollm2-135m",
        vision=TowerConfig(weights="runs/demo-hive-1/tower"),
        language=SMOLLM2_135M,
        dataset=DataConfig(max_text_tokens=256, workers=1),
        micro_batch_size=16,
        schedule1=Schedule(epochs=2, batch_size=64, peak_lr=1e-3, **RATES),
        schedule2=Schedule(epochs=2, batch_size=64, peak_lr=2e-4, **RATES),
    )


def llama_3_2_1b() -> VLMConfig:
    """Table 5: 2180 and 11540 steps on LLaVA-1.5's LCS-558K and LLaVA-NeXT's 738,590 conversations."""
    connector, instruct = Path("data/LLaVA-Pretrain"), Path("data/LLaVA-NeXT-Data")
    shape = TowerConfig(**{item.name: getattr(SIGLIP_L_384, item.name) for item in fields(TowerConfig)})
    return VLMConfig(
        recipe="llama-3.2-1b",
        data=str(connector / "blip_laion_cc_sbu_558k.json"),
        image_root=connector / "images",
        data2=str(instruct / "llava_next_raw_format_processed.json"),
        image_root2=instruct / "images",
        vision=replace(shape, weights="tower"),
        language=LLAMA_1B,
        dataset=DataConfig(max_text_tokens=2048, workers=8),
        micro_batch_size=8,
        schedule1=Schedule(epochs=1, batch_size=256, peak_lr=1e-3, **RATES),
        schedule2=Schedule(epochs=1, batch_size=64, peak_lr=2e-5, **RATES),
    )


RECIPES = {recipe().recipe: recipe for recipe in (demo, smollm2_135m, llama_3_2_1b)}


def load_recipe(name: str) -> VLMConfig:
    """The recipe's configuration; an unknown name raises `UserError` with the known ones."""
    return choose("--recipe", name, RECIPES)()
