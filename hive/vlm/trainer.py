"""Fine-tuning in the pre-training's loop: what is trained, on what, and what is left behind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hive.config import RunConfig
from hive.cost.flops import sequence_flops, text_lengths, tower_flops
from hive.data.pairs import EMBEDDED_HELDOUT, split_heldout
from hive.data.text import Batch
from hive.errors import UserError
from hive.train.setup import TrainingSet, open_tokenizer
from hive.train.trainer import Trainer
from hive.vlm.chat import ChatTokenizer, load_chat_tokenizer
from hive.vlm.config import VLMConfig
from hive.vlm.conversations import SharedTexts, open_conversations
from hive.vlm.emoji import open_emoji
from hive.vlm.export import export_llava
from hive.vlm.model import VLM, build_vlm, image_shape

FOLDER = "llava"


class VLMTrainer(Trainer):
    """One run of fine-tuning."""

    program = "python -m hive.vlm"
    unit = "conversations"
    model: VLM
    tokenizer: ChatTokenizer

    def open_tokenizer(self, config: RunConfig) -> ChatTokenizer:
        """The language model's own, with its chat template and a token for images."""
        check_tower(config.vision.weights)
        open_tokenizer(config.language)  # another one beside pretrained weights is refused
        patches, size = image_shape(config.vision)
        chat, self.saved_tokenizer = load_chat_tokenizer(
            config.language.tokenizer or config.language.weights, patches, size
        )
        return chat

    def open_sets(self, config: Any) -> dict[int, TrainingSet]:
        """One set for both stages, or one each."""
        first = open_set(config, config.data, config.image_root, "--data")
        second = open_set(config, config.data2, config.image_root2, "--data2") if config.data2 else first
        return {1: first, 2: second}

    def build_model(self, config: Any) -> VLM:
        """The model, in fp32 on the CPU."""
        return build_vlm(config, self.backend)

    def trained_parts(self, stage: int) -> frozenset[str]:
        """The connector, and in stage 2 the language model."""
        return frozenset({"projector"} if stage == 1 else {"projector", "language"})

    def flops(self, batch: Batch) -> float:
        """Of a micro-batch, forward and backward, in the current stage."""
        parts, sequences = self.trained_parts(self.stage), text_lengths(batch.cu_seqlens.tolist())
        costs = sequence_flops(self.model, parts, batch.images, sequences, batch.token_count)
        return sum(cost.total for cost in costs.values()) + tower_flops(self.model, False, batch.images).total

    def export(self) -> str:
        """Writes the model for transformers' LLaVA classes."""
        export_llava(self.model, self.tokenizer, self.saved_tokenizer, self.config.feature_layer, self.folder / FOLDER)
        return f"model       {self.folder / FOLDER}"

    def draw_maps(self) -> None:
        """None: they are of pre-training."""


def check_tower(weights: str | None) -> None:
    """Refuses a tower that a run of pre-training has still to write."""
    if weights is not None and Path(weights).name == "tower" and not Path(weights).expanduser().exists():
        raise UserError(
            f"--vision.weights {weights} is not there: pre-train one first (make train, or python -m hive.train), or "
            "give the tower/ of another run."
        )


def open_set(config: VLMConfig, data: str, image_root: Any, flag: str) -> TrainingSet:
    """The conversations of one stage; an epoch is as long as the whole set, as in pre-training."""
    if data == "embedded":
        if image_root is not None:
            raise UserError(
                f"{flag.replace('data', 'image-root')} goes with a LLaVA JSON file, but {flag} is embedded."
            )
        train = open_emoji("train")
        return TrainingSet(train, {split: open_emoji(split) for split in EMBEDDED_HELDOUT}, len(train))
    whole = open_conversations(data, image_root, flag)
    train, held_out = split_heldout(whole, config.dataset.heldout_pairs, config.seed)
    return TrainingSet(replace(train, captions=SharedTexts(train.captions)), {"held_out": held_out}, len(whole))
