"""The outline of a fine-tuning run, which python -m hive.vlm --dry-run reports."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hive.cost.paper import LCS_CONVERSATIONS, LLAVA_NEXT_CONVERSATIONS
from hive.data.text import BadText
from hive.errors import UserError
from hive.train.dry_run import Outline, absent_models, absent_packages
from hive.train.task import TrainingSet
from hive.train.trackers import absent_trackers
from hive.vlm.chat import ChatBatch, ChatTokenizer
from hive.vlm.config import VLMConfig
from hive.vlm.fine_tuning import check_tower, flops, load_configured_chat_tokenizer, open_stage_set, trained_parts
from hive.vlm.model import VLM, build_vlm

ASSUMED = {1: LCS_CONVERSATIONS, 2: LLAVA_NEXT_CONVERSATIONS}
"""Conversations of a stage, where its data is missing: those of Table 5."""
MEASURED = 1000  # conversations, about: the lengths of so many stand for all


@dataclass(frozen=True)
class Length:
    """Tokens of a conversation."""

    text: int
    answers: int
    """Those of the text that are supervised."""
    has_image: bool

    def rows(self, patches: int) -> int:
        """Rows of the conversation in the model's sequence."""
        return self.text + (patches if self.has_image else 0)


ASSUMED_LENGTH = Length(text=64, answers=32, has_image=True)


def outline(config: VLMConfig) -> Outline:
    """The outline of a run. Shapes come from the configuration where weights are missing, lengths are assumed where
    data is."""
    absent = absent_models(config.vision, config.language)
    try:
        check_tower(config.vision.weights)
    except UserError as error:  # more helpful than how to download a tower, which `absent_models` says
        absent[str(config.vision.weights)] = str(error)
    missing = [*absent.values(), *absent_packages(config.vision), *absent_trackers(config.trackers)]
    chat = None
    if not absent.keys() & {config.language.tokenizer, config.language.weights}:
        try:
            chat, _ = load_configured_chat_tokenizer(config, pretrained=False)
        except UserError as error:
            missing.append(str(error))
    with torch.device("meta"):
        model = build_vlm(dataclasses.replace(config, seed=0), "torch", pretrained=False)
    samples, lengths, lines = {}, {}, []
    opened: dict[int, TrainingSet | None] = {}
    for stage in range(1, 1 + len(config.schedules())):  # a run opens the sets of all stages, whichever it trains
        first = 2 if stage == 2 and config.data2 else 1  # the first stage that trains on this stage's set
        if first not in opened:
            try:
                opened[first] = open_stage_set(config, first, download=False)
            except UserError as error:
                opened[first] = None
                missing.append(str(error))
        samples[stage], lengths[stage], line = _measure_data(config, stage, opened[first], chat)
        if stage in config.stages:
            lines.append(line)
    patches = model.tower.patches

    def flops_of_a_conversation(stage: int) -> float:
        measured = lengths[stage]
        images, answers = sum(length.has_image for length in measured), sum(length.answers for length in measured)
        rows = [length.rows(patches) for length in measured]
        return flops(model, trained_parts(stage), images, rows, answers) / len(measured)

    return Outline(
        config=config,
        unit="a sample",
        model=model,
        trained_parts=trained_parts,
        samples=samples,
        flops=flops_of_a_conversation,
        micro_batch=lambda stage, number: empty_batch(_mean_length(lengths[stage]), number, model),
        data=lines,
        missing=missing,
    )


def _measure_data(
    config: VLMConfig, stage: int, data: TrainingSet | None, chat: ChatTokenizer | None
) -> tuple[int, Sequence[Length], str]:
    """(conversations of an epoch, the lengths of some of them, the line about both), assumed where data is missing."""
    source = config.data2 if stage == 2 and config.data2 else config.data
    assumed = f"{ASSUMED_LENGTH.text} text tokens each, {ASSUMED_LENGTH.answers} of them answers, are assumed"
    if data is None:
        number = ASSUMED[stage]
        line = f"stage {stage}: data {source} can't be read yet: {number:,} conversations with an image and {assumed}"
        return number, [ASSUMED_LENGTH], line
    number = data.epoch_pairs
    if chat is None:
        line = f"stage {stage}: data {source}: {number:,} conversations; without their tokenizer an image and {assumed}"
        return number, [ASSUMED_LENGTH], line
    lengths = []
    for index in range(0, len(data.pairs), max(1, len(data.pairs) // MEASURED)):
        try:
            text = chat.encode(data.pairs.captions[index], config.dataset.max_text_tokens)
        except BadText:
            continue
        image = chat.image_id in text.ids
        answers = sum(text.answers[1:])
        lengths.append(Length(len(text.ids) - 1 - image, answers, image))  # the last token is only predicted
    if not lengths:
        line = f"stage {stage}: data {source}: {number:,} conversations, none of them usable; an image and {assumed}"
        return number, [ASSUMED_LENGTH], line
    mean, images = _mean_length(lengths), sum(length.has_image for length in lengths)
    line = (
        f"stage {stage}: data {source}: {number:,} conversations, {100 * images / len(lengths):.0f} % with an image, "
        f"{mean.text} text tokens on average, {mean.answers} of them answers"
    )
    return number, lengths, line


def _mean_length(lengths: Sequence[Length]) -> Length:
    """The mean conversation, with an image if any has one: a micro-batch may have one in each."""
    text, answers = (
        max(1, round(sum(values) / len(lengths)))
        for values in ([length.text for length in lengths], [length.answers for length in lengths])
    )
    return Length(text, answers, any(length.has_image for length in lengths))


def empty_batch(length: Length, samples: int, model: VLM) -> ChatBatch:
    """A batch of `samples` conversations of this length, without values, on the meta device."""
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
