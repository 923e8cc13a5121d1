"""Exports the fine-tuned model as a LLaVA folder of transformers, which is loaded back and compared first."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoProcessor,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.17's at the top needs torchvision

from hive.data.turns import IMAGE
from hive.export.loading import evaluating, no_progress_bar
from hive.export.place import SEAL, replacing, save_weights, seal, write_json
from hive.model.families.tower import processor
from hive.vlm.chat import ChatText, ChatTokenizer
from hive.vlm.model import VLM, logits

TOLERANCE = 1e-3  # of the largest logit: attention is summed in another order, everything else is the same


def export_llava(model: VLM, chat: ChatTokenizer, tokenizer: Any, feature_layer: int, folder: Path) -> None:
    """Writes `model` in fp32 with its processor to `folder`, for `LlavaForConditionalGeneration` and `AutoProcessor`.

    `tokenizer` is what `load_chat_tokenizer` returns beside `chat`. The export is written beside `folder`, loaded back
    and compared: the ids of a prompt, and the logits of every row of a conversation with an image. Then it replaces an
    earlier export. Raises `RuntimeError` when the comparison fails, and `UserError` when `folder` holds something else
    or can't be written; both leave `folder` as it was.
    """
    with (
        replacing(folder, "The model") as temporary,
        no_progress_bar(),
        evaluating(model.language.model),
        evaluating(model.tower.model),
    ):
        _write(model, chat, tokenizer, feature_layer, temporary)
        _compare(model, chat, temporary)


def _write(model: VLM, chat: ChatTokenizer, tokenizer: Any, feature_layer: int, folder: Path) -> None:
    shape = model.language.shape
    select: Literal["default", "full"] = "default" if model.tower.class_tokens else "full"  # default leaves CLS out
    end = chat.encode(_PROBE, 1000).ids[-1]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": sorted({end, tokenizer.eos_token_id} - {None}),
        "pad_token_id": tokenizer.pad_token_id,
    }
    rows = max(shape.vocab_size, chat.image_id + 1)
    config = LlavaConfig(
        text_config=_settings(model.language.model.config) | special | {"vocab_size": rows},
        vision_config=_settings(model.tower.model.config),
        image_token_index=chat.image_id,
        image_seq_length=model.tower.patches,
        projector_hidden_act="gelu",
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=select,
        tie_word_embeddings=shape.tied_embeddings,
        architectures=["LlavaForConditionalGeneration"],
        dtype="float32",
    )
    config.save_pretrained(folder)
    GenerationConfig(**special, do_sample=False).save_pretrained(folder)
    _processor(model, tokenizer, select, folder).save_pretrained(folder)
    metadata = {"format": "pt", SEAL: seal(folder)}  # of all the other files, which are written by now
    save_weights(_weights(model, rows), folder / "model.safetensors", metadata)


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    """The configuration of tower or language model, without the local path that it was loaded from."""
    settings = {**config.to_dict(), "dtype": "float32"}
    for key in ("_name_or_path", "torch_dtype", "transformers_version", "output_hidden_states"):
        settings.pop(key, None)
    return settings


def _processor(model: VLM, tokenizer: Any, select: str, folder: Path) -> LlavaProcessor:
    """The processor of the export.

    Its image processor is read from the file written here, so that transformers picks the class as it will for users.
    """
    tower = model.tower
    write_json(folder / "preprocessor_config.json", processor(tower.spec))
    images = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=tower.patch_size,
        vision_feature_select_strategy=select,
        chat_template=tokenizer.chat_template,
        image_token=IMAGE,
        num_additional_image_tokens=tower.class_tokens,
    )


def _weights(model: VLM, rows: int) -> dict[str, Tensor]:
    """The weights, fp32 on the CPU, under the keys that transformers 4 and 5 both read."""
    projector = {
        f"linear_{number}.{kind}": model.projector.state_dict()[f"{place}.{kind}"]
        for number, place in ((1, 0), (2, 2))
        for kind in ("weight", "bias")
    }
    prefix = model.tower.family.export_prefix
    tower = {name.removeprefix(prefix): value for name, value in model.tower.model.state_dict().items()}
    parts = {
        f"vision_tower.{prefix}": tower,
        "multi_modal_projector.": projector,
        "language_model.": model.language.model.state_dict(),
    }
    weights = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
    head, embedding = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    if model.language.shape.tied_embeddings:
        del weights[head]
    return {
        name: _add_mean_rows(_on_cpu(value), rows) if name in (head, embedding) else _on_cpu(value)
        for name, value in weights.items()
    }


def _on_cpu(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32).contiguous()


def _add_mean_rows(matrix: Tensor, rows: int) -> Tensor:
    """`matrix` with its mean row appended until it has `rows` rows.

    In the output head such a row scores the mean of all scores, which is never the largest.
    """
    more = rows - len(matrix)
    return torch.cat([matrix, matrix.mean(0, keepdim=True).expand(more, -1)]) if more else matrix


_QUESTION = "What is this?"
_PROBE = '[["user", "<image>\\nWhat is this?"], ["assistant", "A test."]]'


def _compare(model: VLM, chat: ChatTokenizer, folder: Path) -> None:
    """Raises `RuntimeError` unless the folder's processor makes the ids of `chat`, and its model `model`'s logits."""
    loader: Any = LlavaForConditionalGeneration
    loaded, report = loader.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    if faults := {kind: names for kind, names in report.items() if names}:
        raise RuntimeError(f"The exported model doesn't load back: {faults}.")
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    content = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    size, device = model.tower.image_size, model.tower.mean.device
    pixels = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = pixels[0].permute(1, 2, 0).numpy()
    read = processor(text=text, images=picture, add_special_tokens=False, return_tensors="pt")
    if read["input_ids"][0].tolist() != chat.prompt(_QUESTION, image=True):
        raise RuntimeError("The exported processor makes other tokens of a question than training did.")

    sample = chat.encode(_PROBE, 1000)
    batch = chat.pack([(pixels[0], ChatText([*sample.ids, 0], [*sample.answers, False]))], ()).to(device)
    expected = logits(model, batch)
    loaded.to(device).eval()
    ids = torch.tensor([chat.expand(sample.ids)], device=device)
    exported = loaded(input_ids=ids, pixel_values=model.tower.normalise(pixels.to(device))).logits[0].float()
    difference = (exported[:, : expected.shape[1]] - expected).abs().max().item()
    if not difference <= TOLERANCE * expected.abs().max().item():
        raise RuntimeError(f"The exported model computes something else: its logits differ by up to {difference:.2g}.")
