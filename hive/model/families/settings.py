"""Refuses a config.json that says more of a model's function than the engine computes."""

from collections.abc import Collection, Mapping
from typing import Any

from transformers import PreTrainedConfig

from hive.errors import UserError

FREE = frozenset(
    {
        "transformers_version", "architectures", "model_type", "_name_or_path", "dtype", "return_dict", "use_cache",
        "output_hidden_states", "output_attentions", "chunk_size_feed_forward", "is_encoder_decoder", "id2label",
        "label2id", "problem_type", "pad_token_id", "bos_token_id", "eos_token_id", "initializer_range",
        "max_position_embeddings",  # positions are rotary, and a longer text is no error
        "max_window_layers",  # layer_types says which layers have a window
        "pretraining_tp",  # in how many pieces a product was computed
    }
)  # fmt: skip
"""Fields of transformers' settings that change nothing in what a model computes."""
FOREIGN = frozenset(
    {
        "layer_sharing", "quantization_config", "rope_interleaved", "partial_rotary_factor", "no_rope_layers",
        "sliding_window", "use_sliding_window", "qk_norm", "use_qk_norm", "qk_layernorm", "qk_layer_norms", "clip_qkv",
        "logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier", "attention_multiplier",
        "scale_emb", "scale_depth", "attn_logit_softcapping", "final_logit_softcapping", "num_experts",
        "num_local_experts",
    }
)  # fmt: skip
"""Fields by which models of other kinds differ, which settings of a class that has no such field would pass over."""


def check_settings(
    settings: PreTrainedConfig,
    computed: PreTrainedConfig,
    content: Mapping[str, Any],
    source: str,
    free: Collection[str] = (),
) -> None:
    """Raises `UserError` where `settings`, read from `content`, are of another function than `computed`.

    `computed` are the settings of the shape that the engine read from `settings`. `free` names more fields that may
    differ, and `source` the file.
    """
    known = type(settings)().to_dict()
    ours, theirs = computed.to_dict(), settings.to_dict()
    for name in sorted(known.keys() - FREE - set(free)):
        if _plain(theirs[name]) != _plain(ours[name]):
            raise UserError(
                f"The config.json of {source} says that {name} is {theirs[name]!s:.80}, but the engine computes "
                f"{ours[name]!s:.80} alone: give a model with that."
            )
    for name in sorted(FOREIGN - known.keys()):
        if not _is_off(content.get(name)):
            raise UserError(
                f"The config.json of {source} says that {name} is {content[name]!s:.80}, which the engine does not "
                "compute: give a model without it."
            )


def require_fields(content: Mapping[str, Any], names: Collection[str], source: str) -> None:
    """Raises `UserError` for the first field that a config.json lacks."""
    for name in names:
        if content.get(name) is None:
            raise UserError(f"The config.json of {source} lacks {name}: give a complete folder.")


def _plain(value: Any) -> Any:
    """A value as it is compared: rotary parameters without the old name of their type."""
    return {key: item for key, item in value.items() if key != "type"} if isinstance(value, dict) else value


def _is_off(value: Any) -> bool:
    """Whether a field's value means that the model has no such thing: a factor of 1, or nothing."""
    return not value or (value == 1 and not isinstance(value, bool))
