"""A LLaVA folder of a few thousand random weights that says something else to every prompt."""

from pathlib import Path

import torch

from hive.config import LanguageConfig, TowerConfig
from hive.vlm.chat import load_chat_tokenizer
from hive.vlm.config import VLMConfig
from hive.vlm.export import export_llava
from hive.vlm.model import build_vlm


def save_tiny_llava(folder: Path, seed: int = 0) -> Path:
    vision = TowerConfig(image_size=16, patch_size=8, hidden_size=16, layers=3, heads=2, mlp_size=32)
    language = LanguageConfig(hidden_size=24, layers=3, heads=2, kv_heads=1, mlp_size=40)
    model = build_vlm(VLMConfig(vision=vision, language=language, seed=seed), "torch")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12)  # fresh weights are so small that every answer is the same
    chat, loaded = load_chat_tokenizer(None, 4, 16)
    export_llava(model, chat, loaded, -1, folder)
    return folder
