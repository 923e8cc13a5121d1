"""The task of vision-language fine-tuning: conversations, two stages, and a LLaVA model as the export."""

from functools import partial
from pathlib import Path
from typing import Any

from hive.cost.flops import sequence_flops, text_lengths, tower_flops
from hive.data.pairs import EMBEDDED_HELDOUT, Pairs, split_heldout
from hive.data.text import Batch, load_configured_tokenizer
from hive.distributed import World
from hive.errors import UserError
from hive.export.place import free_place
from hive.model.kernel import kernel_for
from hive.train.setup import encoder_for, place, prepare
from hive.train.task import Task, TrainingSet
from hive.vlm.chat import ChatTokenizer, load_chat_tokenizer
from hive.vlm.config import VLMConfig
from hive.vlm.conversations import open_conversations
from hive.vlm.emoji import open_emoji
from hive.vlm.export import export_llava
from hive.vlm.model import VLM, build_vlm, image_shape

FOLDER = "llava"


def fine_tuning(config: VLMConfig, resume: bool, world: World) -> Task[VLMConfig, ChatTokenizer]:
    """The fine-tuning task of a configuration, with its data opened and its model on the device.

    Raises `UserError` for what is missing or doesn't fit together.
    """
    prepare(config, resume, world.size)
    backend = kernel_for(config.kernel, world.device)
    check_tower(config.vision.weights)
    chat, tokenizer = load_configured_chat_tokenizer(config)
    sets = open_sets(config)
    model = build_vlm(config, backend)
    config = place(model, chat, config, backend, world.device)
    return Task(
        program="python -m hive.vlm",
        unit="conversations",
        texts="conversations",
        check="python -m hive.data --vlm",
        config=config,
        tokenizer=chat,
        sets=sets,
        model=model,
        trained_parts=trained_parts,
        encode=partial(encoder_for, model, config),
        flops=partial(_flops_of_batch, model),
        export_folders=(FOLDER,),
        export=partial(_export, model, chat, tokenizer, config.feature_layer),
    )


def trained_parts(stage: int) -> frozenset[str]:
    """The parts that a stage trains: the connector, and in stage 2 the language model."""
    return frozenset({"projector"} if stage == 1 else {"projector", "language"})


def flops(model: VLM, parts: frozenset[str], images: int, sequences: list[int], predicted: int) -> float:
    """FLOPs, forward and backward, of images in sequences of these lengths; the head runs on `predicted` rows."""
    costs = sequence_flops(model, parts, images, sequences, predicted)
    return sum(cost.total for cost in costs.values()) + tower_flops(model, False, images).total


def _flops_of_batch(model: VLM, batch: Batch, parts: frozenset[str]) -> float:
    return flops(model, parts, batch.images, text_lengths(batch.cu_seqlens.tolist()), batch.token_count)


def _export(model: VLM, chat: ChatTokenizer, tokenizer: Any, feature_layer: int, run: Path, step: int) -> str:
    folder = free_place(run / FOLDER)
    export_llava(model, chat, tokenizer, feature_layer, folder)
    return f"model       {folder}"


def check_tower(weights: str | None) -> None:
    """Raises `UserError` for a tower/ folder that no run of pre-training has written yet."""
    if weights is not None and Path(weights).name == "tower" and not Path(weights).expanduser().exists():
        raise UserError(
            f"--vision.weights {weights} is not there: pre-train one first (make train, or python -m hive.train), or "
            "give the tower/ of another run."
        )


def load_configured_chat_tokenizer(config: VLMConfig, *, pretrained: bool = True) -> tuple[ChatTokenizer, Any]:
    """What `load_chat_tokenizer` returns for the tokenizer that the configuration names; see `image_shape`."""
    load_configured_tokenizer(config.language)  # raises for a tokenizer that doesn't fit pretrained weights
    patches, size = image_shape(config.vision, pretrained)
    return load_chat_tokenizer(config.language.tokenizer or config.language.weights, patches, size)


def open_sets(config: VLMConfig) -> dict[int, TrainingSet]:
    """The training set of each stage; both share one where there is no --data2."""
    first = open_stage_set(config, 1)
    return {1: first, 2: open_stage_set(config, 2) if config.data2 else first}


def open_stage_set(config: VLMConfig, stage: int, *, download: bool = True) -> TrainingSet:
    """The conversations of one stage, divided into training and held-out ones; see `open_source` for `download`."""
    return divide(config, stage, open_whole(config, stage, download=download))


def source(config: VLMConfig, stage: int) -> tuple[str, Path | None, str]:
    """(the data of a stage, the folder that its image paths start from, the flag that gives the data)."""
    if stage == 2 and config.data2:
        return config.data2, config.image_root2, "--data2"
    return config.data, config.image_root, "--data"


def open_whole(config: VLMConfig, stage: int, *, download: bool = True) -> Pairs:
    """All conversations of a stage: those of a source, or the embedded ones."""
    data, image_root, flag = source(config, stage)
    if data != "embedded":
        conversations = open_conversations(data, image_root, config.dataset, flag, download=download)
        return conversations.labelled("data2: ") if flag == "--data2" else conversations
    if image_root is not None:
        raise UserError(
            f"{flag.replace('data', 'image-root')} goes with data that names images by path, but {flag} is embedded: "
            "leave it out."
        )
    return open_emoji("train")


def divide(config: VLMConfig, stage: int, whole: Pairs) -> TrainingSet:
    """The conversations of a stage, divided into training and held-out ones.

    An epoch has as many as the whole set, as in pre-training.
    """
    if source(config, stage)[0] == "embedded":
        return TrainingSet(whole, {split: open_emoji(split) for split in EMBEDDED_HELDOUT}, len(whole))
    train, held_out = split_heldout(whole, config.dataset.heldout_pairs, config.seed)
    return TrainingSet(train, {"held_out": held_out}, whole.epoch_pairs)
