"""The model against transformers' LLaVA, and the export that has to be it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoProcessor, LlavaForConditionalGeneration

from hive.cost.flops import sequence_flops, text_lengths
from hive.errors import UserError
from hive.model.families import TOWERS
from hive.stages import enter_stage
from hive.vlm import export
from hive.vlm.chat import ChatTokenizer, load_chat_tokenizer
from hive.vlm.config import VLMConfig
from hive.vlm.conversations import dumps
from hive.vlm.export import export_llava
from hive.vlm.model import VLM, build_vlm
from tests.support.gradients import gradient
from tests.support.tiny_chats import PATCHES, TINY, TOWER, picture, tiny_vlm

TALKS = [
    [("user", "<image>\nWhat?"), ("assistant", "a cat"), ("user", "Sure?"), ("assistant", "yes")],
    [("user", "1 + 1?"), ("assistant", "2")],
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hi"), ("user", "<image>\nAnd?"), ("assistant", "dog")],
]


def made(tmp_path: Path, config: VLMConfig = TINY) -> tuple[VLM, ChatTokenizer, Path]:
    """A model, its tokenizer, and the export of it."""
    model = tiny_vlm(config)
    chat, loaded = load_chat_tokenizer(None, PATCHES, 16)
    export_llava(model, chat, loaded, config.feature_layer, tmp_path / "llava")
    return model, chat, tmp_path / "llava"


def packed(chat, talks=TALKS):
    texts = [chat.encode(dumps(talk), 200) for talk in talks]
    images = [picture(place) if "<image>" in dumps(talk) else None for place, talk in enumerate(talks)]
    return texts, images, chat.pack(list(zip(images, texts, strict=True)), ())


@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.parametrize("layer", [-1, -2])
def test_loss_is_that_of_transformers(tmp_path, family, layer):
    """One packed batch against transformers' forward, one conversation at a time."""
    config = replace(TINY, vision=replace(TOWER, family=family), feature_layer=layer)
    model, chat, folder = made(tmp_path, config)
    llava = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    texts, images, batch = packed(chat)
    total = torch.zeros(())
    for text, image in zip(texts, images, strict=True):
        ids = torch.tensor([chat.expand(text.ids)])
        pixels = None if image is None else model.tower.normalise(image[None])
        scores = llava(input_ids=ids, pixel_values=pixels).logits[0, :-1, :2048]  # the image's own row is no answer
        own = [flag for flag, token in zip(text.answers, text.ids, strict=True) for _ in chat.expand([token])]
        labels = torch.where(torch.tensor(own), ids[0], -100)[1:]
        total += cross_entropy(scores, labels, reduction="sum")
    torch.testing.assert_close(model(batch), total, rtol=1e-5, atol=1e-4)


def test_conversations_do_not_see_each_other():
    model, (chat, _) = tiny_vlm(), load_chat_tokenizer(None, PATCHES, 16)
    alone = sum(model(packed(chat, [talk])[2]) for talk in TALKS[1:2])
    together = model(packed(chat)[2]) - model(packed(chat, [TALKS[0]])[2])
    last = [picture(2)]
    third = chat.pack([(last[0], chat.encode(dumps(TALKS[2]), 200))], ())
    torch.testing.assert_close(together, alone + model(third), rtol=1e-5, atol=1e-4)


def test_text_alone_trains_nothing_in_stage_1_and_everything_but_the_connector_in_stage_2():
    model, (chat, _) = tiny_vlm(), load_chat_tokenizer(None, PATCHES, 16)
    batch = packed(chat, [TALKS[1]])[2]
    enter_stage(model, frozenset({"projector"}))
    model(batch).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.projector.parameters())
    trained = enter_stage(model, frozenset({"projector", "language"}))
    model(batch).backward()
    moved = {name for name, parameter in trained.items() if gradient(parameter).any()}
    assert moved == {name for name in trained if not name.startswith("projector")}
    assert all(parameter.grad is None for parameter in model.tower.parameters())


def test_export(tmp_path):
    """Right classes, no local path, a processor that makes training's ids, and a new token that never wins."""
    _, chat, folder = made(tmp_path)
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    llava, report = loaded
    assert not any(report.values())
    assert str(tmp_path) not in (folder / "config.json").read_text()
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [1]
    assert (llava.config.vision_feature_layer, llava.config.vision_feature_select_strategy) == (-1, "default")
    processor = AutoProcessor.from_pretrained(folder)
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    read = processor(text=text, images=picture().permute(1, 2, 0).numpy(), return_tensors="pt")
    assert read["input_ids"][0].tolist() == chat.prompt("What?", image=True)
    scores = llava(**read).logits[0]
    assert scores.shape[-1] == 2049  # 2048 tokens and the image's
    assert (scores[:, 2048:] < scores.max(dim=-1, keepdim=True).values).all()


@pytest.mark.parametrize("part", ["multi_modal_projector", "vision_tower", "language_model"])
def test_an_export_that_is_another_model_does_not_count(tmp_path, monkeypatch, part):
    model, chat, folder = made(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write = export._weights

    def wrong(*arguments):
        weights = write(*arguments)
        name = next(name for name in weights if name.startswith(part) and name.endswith("weight"))
        return weights | {name: weights[name] + 0.1 * torch.randn_like(weights[name])}

    monkeypatch.setattr(export, "_weights", wrong)
    with pytest.raises(RuntimeError, match="computes something else"):
        export_llava(model, chat, load_chat_tokenizer(None, PATCHES, 16)[1], -1, folder)
    monkeypatch.setattr(export, "_weights", lambda *arguments: dict(list(write(*arguments).items())[:-3]))
    with pytest.raises(RuntimeError, match="doesn't load back"):
        export_llava(model, chat, load_chat_tokenizer(None, PATCHES, 16)[1], -1, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["llava"]


def test_an_export_takes_nobody_elses_place(tmp_path):
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava" / "thesis.txt").touch()
    with pytest.raises(UserError, match="something else than an export"):
        made(tmp_path)


def test_layers_that_are_not_there():
    with pytest.raises(UserError, match=r"--feature-layer is -4, but the tower has 3 layers: give -3 to -1"):
        build_vlm(replace(TINY, feature_layer=-4), "torch")


def test_flops_count_rows():
    """The connector and the decoder over all rows, the head over supervised ones: by hand."""
    model, (chat, _) = tiny_vlm(), load_chat_tokenizer(None, PATCHES, 16)
    batch = packed(chat)[2]
    lengths = text_lengths(batch.cu_seqlens.tolist())
    costs = sequence_flops(model, frozenset({"projector", "language"}), batch.images, lengths, batch.token_count)
    assert sum(lengths) == len(batch.tokens) + 2 * PATCHES
    assert costs["projector"].forward == 2 * 2 * PATCHES * (16 * 24 + 24 * 24)
    assert costs["head"].forward == 2 * batch.token_count * 24 * 2048
    linear = 2 * sum(lengths) * (24 * (2 * 24 + 2 * 12) + 3 * 24 * 40)
    scores = 4 * 24 * sum(length * (length + 1) / 2 for length in lengths)
    assert costs["language"].forward == 3 * (linear + scores)
