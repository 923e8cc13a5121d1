"""What is compared: every tower as a whole `Config`, in a small setting and in one for a GPU."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hive.claim.cost import Texts, read_texts, with_flops_of
from hive.config import Config, DataConfig, LanguageConfig, Schedule, VisionConfig
from hive.data.open_source import EMBEDDED
from hive.model.alignment import select_hidden_states
from hive.model_files import SMOLLM2, smollm2_file
from hive.probe.protocol import Protocol
from hive.recipes import SMOLLM2_135M, demo

REFERENCE = "hive"
EQUAL_FLOPS = "self-attention-equal-flops"
BLIND = "blind"
BIGGER_SET = Path("emoji-128")


@dataclass(frozen=True)
class Row:
    """One tower of the comparison."""

    name: str
    words: str
    """How it differs from HIVE."""
    config: Config
    """The run's, without seed and folder."""
    ablation: bool = False
    pretrained: bool = True
    """False: the fresh tower that runs with the same seed start from is scored, untrained."""
    sees: bool = True
    """False: there is no tower; the questions are answered without pictures."""


@dataclass(frozen=True)
class Setting:
    """A size of the whole comparison."""

    name: str
    base: Config
    """HIVE's configuration, which every row changes."""
    folder: Path
    """Has train.parquet and a file for each held-out split."""
    probing: Protocol
    """How the probe is trained."""
    answering: Protocol
    """How the answerers of the questions are trained; the seed is the run's."""
    images_per_second: float | None = None
    """Expected speed of HIVE's stage 3; None where it has not been measured."""


def small(folder: Path | None = None) -> Setting:
    """Returns the setting for two CPU cores: the demo on the embedded set, with 6 passes in stage 3 instead of 20.

    The language model has 8 layers instead of 6, so that it can read all 8 of the tower's.
    """
    recipe = demo()
    base = replace(
        recipe,
        language=replace(recipe.language, layers=8),
        dataset=replace(recipe.dataset, heldout_pairs=64),
        schedule2=replace(recipe.schedule2, epochs=1.0),
        schedule3=replace(recipe.schedule3, epochs=6.0),
    )
    probing = Protocol(learning_rates=(1e-3, 5e-3, 2e-2), weight_decays=(0.05,), epochs=30.0, batch_size=256, seeds=1)
    answering = replace(probing, learning_rates=(3e-3, 1e-2), epochs=20.0)
    return _with_data(Setting("small", base, EMBEDDED, probing, answering, images_per_second=200.0), folder)


def gpu(folder: Path | None = None) -> Setting:
    """Returns the setting for a GPU: six vendors at 128 pixels, a tower of 16 layers.

    The language model is SmolLM2-135M where its package is installed, otherwise a fresh one.
    """
    if smollm2_file() is not None:
        language, gate, rates = SMOLLM2_135M, True, (1e-3, 1e-4, 3e-4)
    else:
        language = LanguageConfig(hidden_size=384, layers=16, heads=6, kv_heads=2, mlp_size=1024)
        gate, rates = False, (1e-3, 1e-3, 1e-3)
    stage = Schedule(epochs=1.0, batch_size=256, clip=1.0)
    base = Config(
        recipe="claim-gpu",
        gate=gate,
        micro_batch_size=256,
        vision=VisionConfig(image_size=128, hidden_size=384, layers=16, heads=6, mlp_size=1536),
        language=language,
        dataset=DataConfig(augment=True, max_text_tokens=32, workers=12, heldout_pairs=64),
        schedule1=replace(stage, peak_lr=rates[0], min_lr=rates[0] / 10),
        schedule2=replace(stage, peak_lr=rates[1], min_lr=rates[1] / 10),
        schedule3=replace(stage, peak_lr=rates[2], epochs=6.0),
    )
    probing = Protocol(learning_rates=(5e-4, 1e-3, 3e-3), weight_decays=(0.05,), epochs=20.0, seeds=1)
    answering = replace(probing, learning_rates=(1e-3, 3e-3))
    return _with_data(Setting("gpu", base, BIGGER_SET, probing, answering), folder)


SETTINGS: dict[str, Callable[[Path | None], Setting]] = {"small": small, "gpu": gpu}


def _with_data(setting: Setting, folder: Path | None) -> Setting:
    """Returns the setting with the data in a folder that tools/build_emoji.py wrote; None is the setting's folder."""
    folder = folder or setting.folder
    language = setting.base.language
    if folder != EMBEDDED and language.weights != SMOLLM2:
        language = replace(language, tokenizer=str(folder / "tokenizer"))
    data = "embedded" if folder == EMBEDDED else str(folder / "train.parquet")
    base = replace(setting.base, data=data, language=language)
    return replace(setting, base=base, folder=folder)


def rows(setting: Setting, max_steps: int | None = None) -> tuple[list[Row], Texts]:
    """Returns towers, ablations and the blind baseline; and the training texts that their costs are counted on.

    Each has HIVE's images and steps, except self-attention at equal FLOPs, which has HIVE's FLOPs and so fewer steps.
    """
    hive = replace(setting.base, max_steps=max_steps)
    texts = read_texts(hive)
    attention = replace(hive, method="self-attention")
    towers = [
        Row("none", "no pre-training: the fresh tower", hive, pretrained=False),
        Row("self-attention", "LLaVA's way, equal images and steps", attention),
        Row(EQUAL_FLOPS, "LLaVA's way, HIVE's training FLOPs: fewer steps", with_flops_of(attention, hive, texts)),
        Row(REFERENCE, "25 % of the layers, uniform", hive),
    ]
    blind = Row(BLIND, "no tower: the questions without pictures", hive, pretrained=False, sees=False)
    return [*towers, *_make_ablations(hive), blind], texts


def _make_ablations(hive: Config) -> list[Row]:
    """Returns HIVE with one change each; of two equal configurations only the first is kept, and it names both."""

    layers = hive.vision.layers

    def with_states(selection: str, density: float = hive.vision.density) -> Config:
        selected = select_hidden_states(selection, density, layers)
        return replace(hive, vision=replace(hive.vision, selection=",".join(map(str, selected))))

    changed = [
        Row("density-12.5", "12.5 % of the layers", with_states("uniform", 0.125)),
        Row("density-50", "50 % of the layers", with_states("uniform", 0.5)),
        Row("density-100", "all layers", with_states("uniform", 1.0)),
        Row("later", "25 % of the layers, the last ones but one", with_states("later")),
        Row("cascaded", "the last layer but one alone", with_states(str(layers - 1))),
        Row("joint", "image and text in one softmax", replace(hive, fusion="joint")),
        Row(
            "no-gate" if hive.gate else "gate",
            "blocks without gates" if hive.gate else "a gate at each block",
            replace(hive, gate=not hive.gate),
        ),
        Row("plain-projector", "LLaVA's MLP in place of the residual projector", replace(hive, projector="mlp")),
    ]
    different: dict[Config, Row] = {}
    for row in changed:
        if row.config in different:
            first = different[row.config]
            different[row.config] = replace(first, words=f"{first.words}, which is {row.name} here")
        else:
            different[row.config] = replace(row, ablation=True)
    return list(different.values())
