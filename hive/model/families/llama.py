"""Llama (Touvron et al. 2023), and models of the same architecture: MobileLLM, SmolLM2."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from hive.config import LanguageConfig
from hive.model.families.language import Attend, AttentionParts, LanguageFamily, LanguageParts, Rotary
from hive.model.families.settings import require_fields

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
)
"""What every config.json of a Llama says."""
MOBILELLM_FIELDS = (*FIELDS, "num_key_value_heads", "rope_theta", "share_embedding")


def read_llama(content: dict[str, Any], source: str) -> LlamaConfig:
    """The settings in the config.json of a Llama."""
    require_fields(content, FIELDS, source)
    return LlamaConfig.from_dict(content)


def read_mobilellm(content: dict[str, Any], source: str) -> LlamaConfig:
    """The settings of MobileLLM as those of a Llama, which its weights fit. The checkpoint's code is never run.

    That code has no output head where `share_embedding` is set, whatever `tie_word_embeddings` says.
    """
    require_fields(content, MOBILELLM_FIELDS, source)
    names = {*LlamaConfig().to_dict(), "rope_theta", "rope_scaling"} - {"model_type", "architectures"}
    plain = {name: value for name, value in content.items() if name in names}
    plain["tie_word_embeddings"] = content["share_embedding"] or content.get("tie_word_embeddings", False)
    return LlamaConfig.from_dict(plain)


def to_settings(config: LanguageConfig) -> LlamaConfig:
    """See `LanguageFamily.to_settings`."""
    return LlamaConfig(**usual_settings(config))


def usual_settings(config: LanguageConfig) -> dict[str, Any]:
    """The configured shape under transformers' usual names."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.llama3_rope:
        rope |= LLAMA3_ROPE
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "rope_parameters": rope,
        "max_position_embeddings": 131_072 if config.llama3_rope else 2048,
    }


def sizes(settings: PreTrainedConfig) -> dict[str, Any]:
    """See `LanguageFamily.sizes`."""
    return {
        "hidden_size": settings.hidden_size,
        "layers": settings.num_hidden_layers,
        "heads": settings.num_attention_heads,
        "kv_heads": settings.num_key_value_heads,
        "mlp_size": settings.intermediate_size,
        "vocab_size": settings.vocab_size,
        "rope_theta": float(settings.rope_parameters["rope_theta"]),
        "llama3_rope": settings.rope_parameters["rope_type"] == "llama3",
        "norm_eps": settings.rms_norm_eps,
        "tied_embeddings": settings.tie_word_embeddings,
    }


def parts(model: PreTrainedModel) -> LanguageParts:
    """See `LanguageFamily.parts`."""
    llama = cast(LlamaForCausalLM, model)
    decoder = llama.model
    return LanguageParts(decoder.embed_tokens, decoder.rotary_emb, decoder.layers, decoder.norm, llama.lm_head)


def attention_parts(layer: nn.Module) -> AttentionParts:
    """See `LanguageFamily.attention_parts`."""
    host = cast(LlamaDecoderLayer, layer)
    attention = host.self_attn
    return AttentionParts(
        head_dim=attention.head_dim,
        norm=host.input_layernorm,
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        output=attention.o_proj,
    )


def decoder_layer(hidden: Tensor, layer: nn.Module, rotary: Rotary, attend: Attend) -> Tensor:
    """See `LanguageFamily.decoder_layer`: attention, then SwiGLU, each with an RMSNorm before it."""
    host = cast(LlamaDecoderLayer, layer)
    attention = host.self_attn
    normed = host.input_layernorm(hidden)
    query, key, value = (
        project(normed).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    attended = attend(rotate(query, *rotary), rotate(key, *rotary), value)
    hidden = hidden + attention.o_proj(attended.flatten(-2))
    return hidden + host.mlp(host.post_attention_layernorm(hidden))


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`heads` [T, H, d] with rotary position embedding (Su et al. 2021); `cos`, `sin` [T, 1, d].

    Channel i is paired with channel i + d / 2, as in Llama.
    """
    first, second = heads.chunk(2, dim=-1)
    return (heads * cos + torch.cat([-second, first], dim=-1) * sin).to(heads.dtype)


FAMILY = LanguageFamily(
    name="llama",
    title="Llama-type one (Llama, MobileLLM, SmolLM2)",
    model_class=LlamaForCausalLM,
    readers={"llama": read_llama, "mobilellm": read_mobilellm},
    to_settings=to_settings,
    sizes=sizes,
    parts=parts,
    attention_parts=attention_parts,
    decoder_layer=decoder_layer,
)
