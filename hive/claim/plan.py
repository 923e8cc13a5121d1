"""What is compared: every tower as a whole `Config`, in a small setting and in one for a GPU."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hive.claim.cost import Texts, read_texts, with_flops_of
from hive.config import Config, DataConfig, LanguageConfig, Schedule, VisionConfig
from hive.data.pairs import EMBEDDED
from hive.data.text import SMOLLM2, smollm2_file
from hive.model.alignment import select_hidden_states
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
    """What it differs in from HIVE."""
    config: Config
    """Without seed and folder."""
    ablation: bool = False
    pretrained: bool = True
    """False: the fresh tower that the runs of the same seed start from, probed as it is."""
    sees: bool = True
    """False: no tower at all, the questions are answered without pictures."""


@dataclass(frozen=True)
class Setting:
    """A size of the whole comparison."""

    name: str
    base: Config
    """HIVE's; every row is a change of it."""
    folder: Path
    """With train.parquet and a file for each held-out split."""
    probing: Protocol
    """How the probe is trained."""
    answering: Protocol
    """How what answers the questions is trained, with the run's seed."""
    images_per_second: float | None = None
    """How fast HIVE's stage 3 is expected to train; None where nobody has measured it."""


def small(folder: Path | None = None) -> Setting:
    """The demo on the embedded set, 6 passes in stage 3 in place of 20, for two CPU cores.

    The language model has 8 layers in place of 6, so that it can read all 8 of the tower's.
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
    return _on(Setting("small", base, EMBEDDED, probing, answering, images_per_second=200.0), folder)


def gpu(folder: Path | None = None) -> Setting:
    """Six vendors at 128 pixels, a tower of 16 layers, SmolLM2-135M where its package is installed."""
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
    return _on(Setting("gpu", base, BIGGER_SET, probing, answering), folder)


SETTINGS: dict[str, Callable[[Path | None], Setting]] = {"small": small, "gpu": gpu}


def _on(setting: Setting, folder: Path | None) -> Setting:
    """The setting on the data in a folder that tools/build_emoji.py wrote."""
    folder = folder or setting.folder
    language = setting.base.language
    if folder != EMBEDDED and language.weights != SMOLLM2:
        language = replace(language, tokenizer=str(folder / "tokenizer"))
    data = "embedded" if folder == EMBEDDED else str(folder / "train.parquet")
    base = replace(setting.base, data=data, language=language)
    return replace(setting, base=base, folder=folder)


def rows(setting: Setting, max_steps: int | None = None) -> tuple[list[Row], Texts]:
    """The towers, the ablations and the blind baseline, and the training texts that their costs are counted on.

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
    unseeing = Row(BLIND, "no tower: the questions without pictures", hive, pretrained=False, sees=False)
    return [*towers, *_ablations(hive), unseeing], texts


def _ablations(hive: Config) -> list[Row]:
    """One change each of HIVE; where two are the same configuration, the first stands for both."""

    layers = hive.vision.layers

    def reads(selection: str, density: float = hive.vision.density) -> Config:
        selected = select_hidden_states(selection, density, layers)
        return replace(hive, vision=replace(hive.vision, selection=",".join(map(str, selected))))

    changed = [
        Row("density-12.5", "12.5 % of the layers", reads("uniform", 0.125)),
        Row("density-50", "50 % of the layers", reads("uniform", 0.5)),
        Row("density-100", "all layers", reads("uniform", 1.0)),
        Row("later", "25 % of the layers, the last ones but one", reads("later")),
        Row("cascaded", "the last layer but one alone", reads(str(layers - 1))),
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
