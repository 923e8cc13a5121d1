"""Pretrained folders as people have them: whole CLIP models, MobileLLM without its code, partial and wrong ones."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, LlamaForCausalLM

from hive.config import Config, TowerFamilyName, check
from hive.config_json import from_json, to_json
from hive.errors import UserError
from hive.model.build import build_model, resolved
from hive.model.families import TOWERS, fresh_language, fresh_vision
from hive.model.kernel import kernel_for
from hive.model.pretrained import load_language, load_vision
from hive.model_files import is_present
from tests.support.tiny_models import LANGUAGE, VISION

MOBILELLM = {
    "model_type": "mobilellm", "auto_map": {"AutoModelForCausalLM": "modeling_mobilellm.MobileLLMForCausalLM"},
    "vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 5, "num_attention_heads": 6,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "rope_theta": 10000.0,
    "share_embedding": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


def cached_folder(cache: Path, name: str) -> Path:
    """Where the cache keeps the files of `main`."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    (repository / "snapshots" / "0123abc").mkdir(parents=True)
    return repository / "snapshots" / "0123abc"


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("family", TOWERS)
def test_a_saved_tower(family: TowerFamilyName, tmp_path: Path) -> None:
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
    with pytest.raises(UserError, match=r"lacks config\.json"):
        load_vision(str(tmp_path / "empty"))


def test_mobilellm_from_the_hubs_cache(hub_cache: Path) -> None:
    """Its config names remote code, which must be neither fetched nor asked for."""
    name = "facebook/MobileLLM-350M"
    folder, llama = cached_folder(hub_cache, name), fresh_language(LANGUAGE)
    (folder / "config.json").write_text(json.dumps(MOBILELLM))
    assert not is_present(name)
    with pytest.raises(UserError, match="is not whole in the hub's cache, and HF_HUB_OFFLINE is set"):
        load_language(name)
    llama.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(MOBILELLM))
    assert is_present(name)
    loaded = load_language(name)
    assert type(loaded) is LlamaForCausalLM
    assert same(loaded, llama)


def test_shards_are_present_when_all_are(tmp_path: Path) -> None:
    fresh_language(LANGUAGE).save_pretrained(tmp_path, max_shard_size="10KB")
    assert is_present(str(tmp_path))
    next(tmp_path.glob("model-*.safetensors")).unlink()
    assert not is_present(str(tmp_path))


def test_torch_weights_are_present(tmp_path: Path) -> None:
    llama = fresh_language(LANGUAGE)
    llama.config.save_pretrained(tmp_path)
    torch.save(llama.state_dict(), tmp_path / "pytorch_model.bin")
    assert is_present(str(tmp_path))
    assert same(load_language(str(tmp_path)), llama)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ([], "holds no readable config.json"),
        ({"model_type": 3}, "model_type is no text"),
        ({"model_type": "mobilellm", "vocab_size": 50}, "lacks hidden_size"),
        (MOBILELLM | {"hidden_size": "wide"}, "can't be used"),
        (MOBILELLM | {"model_type": "llama", "hidden_size": []}, "can't be used"),
    ],
)
def test_a_broken_config_is_refused(settings: object, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=sentence) as caught:
        load_language(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_broken_weights_are_refused(name: str, tmp_path: Path) -> None:
    fresh_vision(VISION).config.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="could not be loaded") as caught:
        load_vision(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_shape_is_that_of_the_weights(tmp_path: Path) -> None:
    """Whatever the flags say, in a dry run and in a real one; and what ran is what a resumed run is given."""
    siglip = dataclasses.replace(VISION, family="siglip", image_size=20)  # no multiple of the patches' side
    fresh_vision(siglip).save_pretrained(tmp_path / "vision")
    fresh_language(dataclasses.replace(LANGUAGE, llama3_rope=True)).save_pretrained(tmp_path / "language")
    config = Config()
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, weights=str(tmp_path / "vision"), density=0.5),
        language=dataclasses.replace(config.language, weights=str(tmp_path / "language")),
    )
    with torch.device("meta"):
        planned = build_model(config, "torch", pretrained=False)
    model = build_model(config, "torch")
    assert all(parameter.is_meta for parameter in planned.parameters())
    assert {n: p.shape for n, p in planned.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    ran = resolved(config, model)
    assert ran == resolved(config, planned)
    assert ran.vision == dataclasses.replace(siglip, weights=config.vision.weights)
    assert ran.language == dataclasses.replace(LANGUAGE, weights=config.language.weights, llama3_rope=True)
    check(ran)
    assert from_json(to_json(ran), Config) == ran == resolved(ran, model)


def test_a_kernel_that_cant_run_is_named_by_its_flag() -> None:
    device = torch.device("cpu")
    assert kernel_for("auto", device) == "torch"
    with pytest.raises(UserError, match=r"^--kernel is cuda, but that can't run on cpu: .*allowed here: auto, torch"):
        kernel_for("cuda", device)
