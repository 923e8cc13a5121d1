"""Qwen2 (Yang et al. 2024): a Llama whose query, key and value projections have biases."""

from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM

from hive.config import LanguageConfig
from hive.model.families import llama
from hive.model.families.language import LanguageFamily
from hive.model.families.settings import require_fields


def read(content: dict[str, Any], source: str) -> Qwen2Config:
    """The settings in the config.json of a Qwen2 or Qwen2.5."""
    require_fields(content, (*llama.FIELDS, "num_key_value_heads"), source)
    return Qwen2Config.from_dict(content)


def to_settings(config: LanguageConfig) -> Qwen2Config:
    """See `LanguageFamily.to_settings`."""
    return Qwen2Config(**llama.usual_settings(config))


FAMILY = LanguageFamily(
    name="qwen2",
    title="Qwen2",
    model_class=Qwen2ForCausalLM,
    readers={"qwen2": read},
    to_settings=to_settings,
    sizes=llama.sizes,
    parts=llama.parts,
    attention_parts=llama.attention_parts,
    decoder_layer=llama.decoder_layer,
)
