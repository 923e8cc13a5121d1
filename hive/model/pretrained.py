"""Pretrained towers and language models, from local folders, the hub's cache or the package that ships SmolLM2."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, SiglipVisionModel

from hive import smollm2
from hive.errors import UserError


def load_vision(weights: str) -> CLIPVisionModel | SiglipVisionModel:
    """The vision model of a CLIP or SigLIP checkpoint, fp32; `UserError` if it is missing, partial or another kind."""
    kind = _model_type(weights, "--vision.weights")
    if kind in ("clip", "clip_vision_model"):
        return _load(CLIPVisionModel, weights, "--vision.weights")
    if kind in ("siglip", "siglip_vision_model"):
        return _load(SiglipVisionModel, weights, "--vision.weights")
    raise UserError(f"--vision.weights {weights} is a {kind} model: give a CLIP or SigLIP one.")


def load_language(weights: str) -> LlamaForCausalLM:
    """A Llama-type causal language model, fp32. `UserError` if it is missing, partial or of another kind."""
    if weights == smollm2.NAME:
        gguf = smollm2.smollm2_file()
        if gguf is None:
            raise UserError(how_to_get(weights, "--language.weights"))
        return _load(LlamaForCausalLM, str(gguf.parent), "--language.weights", gguf_file=gguf.name)
    kind = _model_type(weights, "--language.weights")
    if kind == "mobilellm":
        return _load(LlamaForCausalLM, weights, "--language.weights", config=mobilellm_config(weights))
    if kind == "llama":
        return _load(LlamaForCausalLM, weights, "--language.weights")
    raise UserError(
        f"--language.weights {weights} is a {kind} model: give a Llama-type one (Llama, MobileLLM, SmolLM2)."
    )


def mobilellm_config(folder: str) -> LlamaConfig:
    """MobileLLM's settings as the plain Llama that its weights are; its own remote code is never run."""
    settings = json.loads((Path(folder) / "config.json").read_text())
    return LlamaConfig(
        vocab_size=settings["vocab_size"],
        hidden_size=settings["hidden_size"],
        intermediate_size=settings["intermediate_size"],
        num_hidden_layers=settings["num_hidden_layers"],
        num_attention_heads=settings["num_attention_heads"],
        num_key_value_heads=settings["num_key_value_heads"],
        rms_norm_eps=settings["rms_norm_eps"],
        max_position_embeddings=settings["max_position_embeddings"],
        rope_parameters={"rope_type": "default", "rope_theta": settings.get("rope_theta", 10_000.0)},
        tie_word_embeddings=settings.get("share_embedding", True),
        bos_token_id=settings.get("bos_token_id"),
        eos_token_id=settings.get("eos_token_id"),
    )


def is_present(weights: str) -> bool:
    """Whether the weights can be had without a download: a folder, the hub's cache, or the installed package."""
    if weights == smollm2.NAME:
        return smollm2.smollm2_file() is not None
    return Path(weights).is_dir() or isinstance(try_to_load_from_cache(weights, "config.json"), str)


def how_to_get(weights: str, flag: str) -> str:
    """One sentence for somebody who lacks these weights."""
    if weights == smollm2.NAME:
        return f"{flag} {weights} needs the package that ships it: {smollm2.HOW_TO_GET}."
    return (
        f"{flag} {weights} is neither a folder here nor in the hub's cache: run `hf download {weights} --local-dir "
        f"DIR` and give {flag} DIR, or {flag} None for fresh weights."
    )


def _model_type(weights: str, flag: str) -> str:
    if Path(weights).is_dir():
        try:
            return json.loads((Path(weights) / "config.json").read_text())["model_type"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{flag} {weights} holds no readable config.json with a model_type ({error}): give a folder "
                "in Hugging Face form."
            ) from error
    try:
        return AutoConfig.from_pretrained(weights).model_type
    except (OSError, ValueError) as error:
        raise UserError(how_to_get(weights, flag)) from error


def _load(kind: type, weights: str, flag: str, **options: Any) -> Any:
    try:
        model, report = kind.from_pretrained(  # type: ignore[attr-defined]
            weights, dtype=torch.float32, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{flag} {weights} could not be loaded ({reason}): give a complete folder in Hugging Face form, "
            "or the hub name of one."
        ) from error
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise UserError(
            f"{flag} {weights} lacks {len(names)} of the model's weights, {names[0]} among them: give a "
            "complete checkpoint."
        )
    return model
