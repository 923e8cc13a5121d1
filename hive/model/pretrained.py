"""Pretrained towers and language models, from local folders, the hub's cache or the package that ships SmolLM2."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from hive import smollm2
from hive.errors import UserError, first_line

VISION, LANGUAGE = "--vision.weights", "--language.weights"
MOBILELLM_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "max_position_embeddings",
)

AnyConfig = TypeVar("AnyConfig", bound=PreTrainedConfig)


def load_vision(weights: str, flag: str = VISION) -> CLIPVisionModel | SiglipVisionModel:
    """The vision model of a CLIP or SigLIP checkpoint, fp32; `UserError` if it is missing, partial or another kind.

    `flag` is how the person gave it.
    """
    config = vision_config(weights, flag)
    kind = CLIPVisionModel if isinstance(config, CLIPVisionConfig) else SiglipVisionModel
    return _load(kind, weights, flag, config)


def load_language(weights: str) -> LlamaForCausalLM:
    """A Llama-type causal language model, fp32. `UserError` if it is missing, partial or of another kind."""
    if weights == smollm2.NAME:
        gguf = _smollm2_file()
        return _load(LlamaForCausalLM, str(gguf.parent), LANGUAGE, None, gguf_file=gguf.name)
    return _load(LlamaForCausalLM, weights, LANGUAGE, language_config(weights))


def vision_config(weights: str, flag: str = VISION) -> CLIPVisionConfig | SiglipVisionConfig:
    """The settings of the vision half of a CLIP or SigLIP checkpoint; `UserError` if there are none such."""
    settings = _settings(weights, flag)
    kind = settings["model_type"]
    if kind in ("clip", "siglip"):
        settings = settings.get("vision_config") or {}
    if kind in ("clip", "clip_vision_model"):
        return _config(CLIPVisionConfig, settings, weights, flag)
    if kind in ("siglip", "siglip_vision_model"):
        return _config(SiglipVisionConfig, settings, weights, flag)
    raise UserError(f"{flag} {weights} is a {kind} model: give a CLIP or SigLIP one.")


def language_config(weights: str) -> LlamaConfig:
    """The settings of a Llama-type checkpoint; `UserError` if there are none such."""
    if weights == smollm2.NAME:
        return _smollm2_config()
    settings = _settings(weights, LANGUAGE)
    kind = settings["model_type"]
    if kind == "mobilellm":
        return mobilellm_config(settings, weights)
    if kind == "llama":
        return _config(LlamaConfig, settings, weights, LANGUAGE)
    raise UserError(f"{LANGUAGE} {weights} is a {kind} model: give a Llama-type one (Llama, MobileLLM, SmolLM2).")


def mobilellm_config(settings: dict[str, Any], weights: str) -> LlamaConfig:
    """MobileLLM's settings as the plain Llama that its weights are; its own remote code is never run."""
    for name in MOBILELLM_FIELDS:
        if name not in settings:
            raise UserError(f"The config.json of {LANGUAGE} {weights} lacks {name}: give a complete MobileLLM folder.")
    plain = {name: settings[name] for name in MOBILELLM_FIELDS}
    plain["rope_parameters"] = {"rope_type": "default", "rope_theta": settings.get("rope_theta", 10_000.0)}
    plain["tie_word_embeddings"] = settings.get("share_embedding", True)
    plain |= {name: settings.get(name) for name in ("bos_token_id", "eos_token_id")}
    return _config(LlamaConfig, plain, weights, LANGUAGE)


def is_present(weights: str) -> bool:
    """Whether the weights can be had without a download: a folder, the hub's cache, or the installed package."""
    if weights == smollm2.NAME:
        return smollm2.smollm2_file() is not None
    return _folder_with_weights(weights) is not None


def how_to_get(weights: str, flag: str) -> str:
    """One sentence for somebody who lacks these weights."""
    if weights == smollm2.NAME:
        return f"{flag} {weights} needs the package that ships it: {smollm2.HOW_TO_GET}."
    if Path(weights).expanduser().is_dir():
        return (
            f"{flag} {weights} lacks config.json or the weights (model.safetensors, pytorch_model.bin or the shards of "
            "their index): give a complete folder in Hugging Face form."
        )
    return (
        f"{flag} {weights} is neither a folder here nor in the hub's cache: run `hf download {weights} --local-dir "
        f"DIR` and give {flag} DIR, or {flag} None for fresh weights."
    )


def _smollm2_file() -> Path:
    gguf = smollm2.smollm2_file()
    if gguf is None:
        raise UserError(how_to_get(smollm2.NAME, LANGUAGE))
    return gguf


@lru_cache(maxsize=1)  # a GGUF file takes seconds to read
def _smollm2_config() -> LlamaConfig:
    gguf = _smollm2_file()
    return LlamaConfig.from_pretrained(str(gguf.parent), gguf_file=gguf.name)


def _cached_config(weights: str) -> Path | None:
    """config.json in a local folder or in the hub's cache."""
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return folder / "config.json"
    try:
        cached = try_to_load_from_cache(weights, "config.json")
    except ValueError:  # no name that the hub could have
        return None
    return Path(cached) if isinstance(cached, str) else None


def _folder_with_weights(weights: str) -> Path | None:
    config = _cached_config(weights)
    if config is None or not config.is_file():
        return None
    return (
        config.parent
        if any(_is_whole(config.parent, name) for name in ("model.safetensors", "pytorch_model.bin"))
        else None
    )


def _is_whole(folder: Path, name: str) -> bool:
    """Whether the folder holds this file of weights, or every shard that its index names."""
    if (folder / name).is_file():
        return True
    try:
        shards = json.loads((folder / f"{name}.index.json").read_text(encoding="utf-8"))["weight_map"].values()
        return len(shards) > 0 and all((folder / shard).is_file() for shard in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _settings(weights: str, flag: str) -> dict[str, Any]:
    """config.json as plain data, from the folder, the hub's cache or, where neither has it, the hub."""
    path = _cached_config(weights)
    if path is None:
        try:
            path = Path(hf_hub_download(weights, "config.json"))
        except Exception as error:  # the network fails in many ways, and each means that it can't be had
            raise UserError(how_to_get(weights, flag)) from error
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings["model_type"], str):
            raise TypeError("model_type is no text")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{flag} {weights} holds no readable config.json with a model_type ({_reason(error)}): give a folder in "
            "Hugging Face form."
        ) from error
    return settings


def _config(kind: type[AnyConfig], settings: dict[str, Any], weights: str, flag: str) -> AnyConfig:
    try:
        return kind.from_dict(settings)
    except Exception as error:  # transformers checks each field in its own way
        raise UserError(
            f"The config.json of {flag} {weights} can't be used ({_reason(error)}): give a folder in Hugging Face form."
        ) from error


def _load(kind: type, weights: str, flag: str, config: PreTrainedConfig | None, **options: Any) -> Any:
    try:
        model, report = kind.from_pretrained(  # type: ignore[attr-defined]
            str(_folder_with_weights(weights) or weights),
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            **options,
        )
    except Exception as error:  # a broken file fails in as many ways as there are formats
        raise UserError(
            f"{flag} {weights} could not be loaded ({_reason(error)}): give a complete folder in Hugging Face form, "
            "or the hub name of one."
        ) from error
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise UserError(
            f"{flag} {weights} lacks {len(names)} of the model's weights, {names[0]} among them: give a "
            "complete checkpoint."
        )
    return model


def _reason(error: Exception) -> str:
    """The first line of what went wrong, without its full stop."""
    return first_line(error).rstrip(".:")[:200]
