"""A tower, a chat model and conversations small enough to check by other means."""

import json
from pathlib import Path

import torch
from PIL import Image

from hive.config import DataConfig, LanguageConfig, TowerConfig
from hive.export.tower import export_tower
from hive.model.families import fresh_vision, image_spec
from hive.vlm.chat import ChatTokenizer, load_chat_tokenizer
from hive.vlm.config import VLMConfig
from hive.vlm.model import VLM, build_vlm
from tests.support.facts import made_up

TOWER = TowerConfig(image_size=16, patch_size=8, hidden_size=16, layers=3, heads=2, mlp_size=32)
LANGUAGE = LanguageConfig(hidden_size=24, layers=3, heads=2, kv_heads=1, mlp_size=40)
TINY = VLMConfig(vision=TOWER, language=LANGUAGE, dataset=DataConfig(workers=0))
PATCHES = 4


def chat() -> ChatTokenizer:
    return load_chat_tokenizer(None, PATCHES, 16)[0]


def tiny_vlm(config: VLMConfig = TINY) -> VLM:
    """With biases and norms that a fresh model has at 0 and 1, so that a forgotten one shows."""
    model = build_vlm(config, "torch")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def picture(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def save_tower(folder: Path) -> Path:
    torch.manual_seed(0)
    tower = fresh_vision(TOWER)
    export_tower(tower, folder, image_spec(tower), made_up(keeps_untrained=True))
    return folder


def make_set(folder: Path, images: int = 30, text_only: int = 10) -> Path:
    """A LLaVA JSON with several turns, placeholders at either end, a system turn, and samples without an image."""
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict] = []
    for number in range(images):
        Image.new("RGB", (20, 16), (8 * number % 256, 40, 90)).save(folder / f"{number}.png")
        question = "<image>\nWhat is this?" if number % 2 else "What is this?\n<image>"
        turns = [("human", question), ("gpt", f"thing {number}"), ("human", "Sure?"), ("gpt", "yes")]
        turns = [("system", "Be brief."), *turns] if number % 5 == 0 else turns
        records.append({"id": number, "image": f"{number}.png", "conversations": said(turns)})
    for number in range(text_only):
        records.append(
            {"id": f"t{number}", "conversations": said([("human", f"{number} + 1?"), ("gpt", f"{number + 1}")])}
        )
    (folder / "chats.json").write_text(json.dumps(records))
    return folder / "chats.json"


def said(turns: list[tuple[str, str]]) -> list[dict]:
    return [{"from": role, "value": text} for role, text in turns]
