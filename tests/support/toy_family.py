"""A family that HIVE does not have, in one file: Cohere's Command R, which is built unlike a Llama.

Attention and MLP read the same LayerNorm side by side, and rotary embeddings turn neighbouring channels.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CohereConfig, CohereForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.cohere.modeling_cohere import CohereDecoderLayer

from hive.config import LanguageConfig, LanguageFamilyName
from hive.model.families.language import Attend, AttentionParts, LanguageFamily, LanguageParts, Rotary

NAME = cast(LanguageFamilyName, "cohere")


def to_settings(config: LanguageConfig) -> CohereConfig:
    return CohereConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.mlp_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        layer_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tied_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        logit_scale=1.0,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def sizes(settings: PreTrainedConfig) -> dict[str, Any]:
    return {
        "hidden_size": settings.hidden_size,
        "layers": settings.num_hidden_layers,
        "heads": settings.num_attention_heads,
        "kv_heads": settings.num_key_value_heads,
        "mlp_size": settings.intermediate_size,
        "vocab_size": settings.vocab_size,
        "rope_theta": float(settings.rope_parameters["rope_theta"]),
        "llama3_rope": False,
        "norm_eps": settings.layer_norm_eps,
        "tied_embeddings": settings.tie_word_embeddings,
    }


def parts(model: PreTrainedModel) -> LanguageParts:
    cohere = cast(CohereForCausalLM, model)
    decoder = cohere.model
    return LanguageParts(decoder.embed_tokens, decoder.rotary_emb, decoder.layers, decoder.norm, cohere.lm_head)


def attention_parts(layer: nn.Module) -> AttentionParts:
    host = cast(CohereDecoderLayer, layer)
    own = host.self_attn
    return AttentionParts(own.head_dim, host.input_layernorm, own.q_proj, own.k_proj, own.v_proj, own.o_proj)


def decoder_layer(hidden: Tensor, layer: nn.Module, rotary: Rotary, attend: Attend) -> Tensor:
    host = cast(CohereDecoderLayer, layer)
    own, normed = host.self_attn, host.input_layernorm(hidden)
    query, key, value = (
        project(normed).unflatten(-1, (-1, own.head_dim)) for project in (own.q_proj, own.k_proj, own.v_proj)
    )
    attended = attend(rotate(query, *rotary), rotate(key, *rotary), value)
    return hidden + own.o_proj(attended.flatten(-2)) + host.mlp(normed)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = torch.stack([-heads[..., 1::2], heads[..., ::2]], dim=-1).flatten(-2)
    return (heads * cos + turned * sin).to(heads.dtype)


FAMILY = LanguageFamily(
    name=NAME,
    title="Command R",
    model_class=CohereForCausalLM,
    readers={"cohere": lambda content, source: CohereConfig.from_dict(content)},
    to_settings=to_settings,
    sizes=sizes,
    parts=parts,
    attention_parts=attention_parts,
    decoder_layer=decoder_layer,
)
