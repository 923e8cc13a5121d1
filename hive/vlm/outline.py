"""Fine-tuning as far as its configuration decides it: what python -m hive.vlm --dry-run reports."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hive.cost.paper import LCS_CONVERSATIONS, LLAVA_NEXT_CONVERSATIONS
from hive.data.text import BadText
from hive.errors import UserError
from hive.train.dry_run import Outline, absent_packages, absent_weights
from hive.train.task import TrainingSet
from hive.vlm.chat import ChatBatch, ChatTokenizer
from hive.vlm.config import VLMConfig
from hive.vlm.fine_tuning import check_tower, flops, open_chat_tokenizer, open_set_of, trained_parts
from hive.vlm.model import VLM, build_vlm

ASSUMED = {1: LCS_CONVERSATIONS, 2: LLAVA_NEXT_CONVERSATIONS}
"""Conversations of a stage whose data is not here: those of Table 5."""
LOOKED_AT = 1000  # conversations that lengths are taken from


@dataclass(frozen=True)
class Length:
    """Tokens of a conversation as the model reads it."""

    text: int
    answers: int
    """Those that are supervised."""
    has_image: bool

    def rows(self, patches: int) -> int:
        """Places in the sequence; the last token is only predicted."""
        return self.text + (patches if self.has_image else 0)


ASSUMED_LENGTH = Length(text=64, answers=32, has_image=True)


def outline(config: VLMConfig) -> Outline:
    """The run without weights or data: shapes come from the configuration wherever weights are missing."""
    absent = absent_weights(config.vision, config.language)
    try:
        check_tower(config.vision.weights)
    except UserError as error:  # says more than where a hub's tower would come from
        absent[str(config.vision.weights)] = f"missing: {error}"
    missing = [*absent.values(), *absent_packages(config.vision)]
    chat = None
    if (config.language.tokenizer or config.language.weights) not in absent:  # it comes with the weights
        try:
            chat, _ = open_chat_tokenizer(config)
        except UserError as error:
            missing.append(f"missing: {error}")
    with torch.device("meta"):
        model = build_vlm(dataclasses.replace(config, seed=0), "torch", pretrained=False)
    samples, lengths, lines = {}, {}, []
    for stage in config.stages:
        found = None
        try:
            found = open_set_of(config, stage)
        except UserError as error:
            if f"missing: {error}" not in missing:
                missing.append(f"missing: {error}")
        samples[stage], lengths[stage], line = _measure_data(config, stage, found, chat)
        lines.append(line)
    patches = model.tower.patches

    def flops_of_a_conversation(stage: int) -> float:
        there = lengths[stage]
        images, answers = sum(length.has_image for length in there), sum(length.answers for length in there)
        rows = [length.rows(patches) for length in there]
        return flops(model, trained_parts(stage), images, rows, answers) / len(there)

    return Outline(
        config=config,
        unit="a sample",
        model=model,
        trained_parts=trained_parts,
        samples=samples,
        flops=flops_of_a_conversation,
        micro_batch=lambda stage, number: empty_batch(_usual(lengths[stage]), number, model),
        data=lines,
        missing=missing,
    )


def _measure_data(
    config: VLMConfig, stage: int, found: TrainingSet | None, chat: ChatTokenizer | None
) -> tuple[int, Sequence[Length], str]:
    """Conversations of an epoch, the lengths of some of them, and the line that says so."""
    data = config.data2 if stage == 2 and config.data2 else config.data
    assumed = f"{ASSUMED_LENGTH.text} text tokens each, {ASSUMED_LENGTH.answers} of them answers, are assumed"
    if found is None:
        number = ASSUMED[stage]
        line = f"stage {stage}: data {data} can't be read yet: {number:,} conversations with an image and {assumed}"
        return number, [ASSUMED_LENGTH], line
    number = found.epoch_pairs
    if chat is None:
        line = f"stage {stage}: data {data}: {number:,} conversations; without their tokenizer an image and {assumed}"
        return number, [ASSUMED_LENGTH], line
    lengths = []
    for index in range(0, len(found.pairs), max(1, len(found.pairs) // LOOKED_AT)):
        try:
            text = chat.encode(found.pairs.captions[index], config.dataset.max_text_tokens)
        except BadText:
            continue
        image = chat.image_id in text.ids
        answers = sum(text.answers[1:])
        lengths.append(Length(len(text.ids) - 1 - image, answers, image))
    if not lengths:
        line = f"stage {stage}: data {data}: {number:,} conversations, none of them usable; an image and {assumed}"
        return number, [ASSUMED_LENGTH], line
    usual, images = _usual(lengths), sum(length.has_image for length in lengths)
    line = (
        f"stage {stage}: data {data}: {number:,} conversations, {100 * images / len(lengths):.0f} % with an image, "
        f"{usual.text} text tokens on average, {usual.answers} of them answers"
    )
    return number, lengths, line


def _usual(lengths: Sequence[Length]) -> Length:
    """The mean conversation, with an image if any has one: a micro-batch may have one in each."""
    text, answers = (
        max(1, round(sum(values) / len(lengths)))
        for values in ([length.text for length in lengths], [length.answers for length in lengths])
    )
    return Length(text, answers, any(length.has_image for length in lengths))


def empty_batch(length: Length, samples: int, model: VLM) -> ChatBatch:
    """So many conversations of this length, without values, on the meta device."""
    size, patches, rows = model.tower.image_size, model.tower.patches, length.rows(model.tower.patches)
    images = samples if length.has_image else 0
    with torch.device("meta"):
        return ChatBatch(
            pixels=torch.empty(max(1, images), 3, size, size, dtype=torch.uint8),
            tokens=torch.empty(samples * length.text, dtype=torch.int64),
            targets=torch.empty(samples * length.answers, dtype=torch.int64),
            positions=torch.empty(samples * rows, dtype=torch.int64),
            cu_seqlens=torch.empty(samples + 1, dtype=torch.int32),
            max_seqlen=rows,
            text_rows=torch.empty(samples * length.text, dtype=torch.int64),
            image_rows=torch.empty(images * patches, dtype=torch.int64),
            predicting_rows=torch.empty(samples * length.answers, dtype=torch.int64),
        )
