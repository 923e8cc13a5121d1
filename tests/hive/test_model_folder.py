"""A whole exported model is the trained one, needs nothing but its folder, or is not there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch

from hive.config import Config, LanguageConfig, VisionConfig
from hive.data.text import Tokenizer, load_tokenizer
from hive.errors import UserError
from hive.model.build import Model, build_model, resolved
from hive.model.families import LANGUAGES as LANGUAGE_FAMILIES
from hive.model.pretrained import language_settings
from hive.model_folder import Trained, digest, export_model, read_model_folder
from tests.support.hub_layouts import LANGUAGES, TOWERS
from tests.support.tiny_models import BASELINE, JOINT, TINY, tiny_batch, tiny_model

SIZES = replace(TINY.language, vocab_size=2048)
CONFIGS = {
    "cross": replace(TINY, language=SIZES),
    "joint": replace(JOINT, language=replace(SIZES, family="qwen2", tied_embeddings=False)),
    "self-attention": replace(BASELINE, language=SIZES, vision=replace(TINY.vision, family="siglip")),
}


def trained(config: Config = CONFIGS["cross"], model: Model | None = None) -> Trained:
    model = model or tiny_model(config)
    return Trained(resolved(config, model), model, load_tokenizer(), 7)


@torch.no_grad()
def loss(model: Model) -> float:
    return model.eval()(tiny_batch()).item()


@pytest.mark.parametrize("kind", CONFIGS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    saved = trained(CONFIGS[kind])
    export_model(saved, tmp_path / "run" / "model")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model"]
    assert {path.name for path in (tmp_path / "run" / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }

    shutil.move(tmp_path / "run" / "model", tmp_path / "elsewhere")
    loaded = read_model_folder(tmp_path / "elsewhere", "torch", "RUN")
    assert (loaded.config, loaded.step) == (saved.config, 7)
    assert loaded.tokenizer.encode("a dog </s>", 77) == saved.tokenizer.encode("a dog </s>", 77)
    weights = dict(saved.model.named_parameters())
    assert weights.keys() == dict(loaded.model.named_parameters()).keys()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.model.named_parameters())
    assert digest(loaded.model) == digest(saved.model)
    assert loss(loaded.model) == loss(saved.model)


@pytest.mark.parametrize(
    ("tower", "language"),
    [
        ("CLIP-L/14-336", "MobileLLM-350M"),
        ("SigLIP-L/16-384", "Llama-3.2-1B-Instruct"),
        ("SigLIP-so400m/14-384", "Qwen2-0.5B"),
        ("CLIP-L/14-336", "SmolLM2-135M"),
    ],
)
def test_models_of_the_hub_are_read_without_their_folders(
    tower: str, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, tokenizers and settings as the hub has them, which are gone and not asked for."""
    (tmp_path / "vision").mkdir()
    unusual = {"layer_norm_eps": 0.1}  # which no field of the run's own configuration says
    TOWERS[tower].write(tmp_path / "vision", vision=unusual, vision_config_dict=None)
    TOWERS[tower].write_weights(tmp_path / "vision")
    (tmp_path / "language").mkdir()
    layout = LANGUAGES[language]
    layout.write(tmp_path / "language")
    shape = LANGUAGE_FAMILIES[layout.config["model_type"].replace("mobilellm", "llama")]
    settings = language_settings(str(tmp_path / "language"))[1]
    layout.write_weights(tmp_path / "language", shape.model_class(settings))
    config = Config(
        vision=VisionConfig(weights=str(tmp_path / "vision"), density=0.5),
        language=LanguageConfig(weights=str(tmp_path / "language")),
    )
    model = build_model(config, "torch")
    saved = Trained(resolved(config, model), model, load_tokenizer(str(tmp_path / "language")), 7)
    export_model(saved, tmp_path / "model")
    shutil.rmtree(tmp_path / "vision")
    shutil.rmtree(tmp_path / "language")

    def ask(*_: object, **__: object) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr("socket.socket.connect", ask)
    loaded = read_model_folder(tmp_path / "model", "torch", "RUN")
    assert loaded.model.tower.model.config.layer_norm_eps == 0.1
    assert digest(loaded.model) == digest(saved.model)
    for caption in ("a red disc", "Two cafés, 日本 and a 🙂 cost 12.50", "<s> is </s> text, so is <unk>"):
        ids = loaded.tokenizer.encode(caption, 1000)
        assert ids == saved.tokenizer.encode(caption, 1000)
        assert [loaded.tokenizer.is_end(number) for number in ids] == [False] * (len(ids) - 1) + [True]
        assert loaded.tokenizer.decode(ids[1:]) == caption


def test_a_tokenizer_without_a_newline_keeps_what_ends_its_captions(tmp_path: Path) -> None:
    words = {word: number for number, word in enumerate(["[UNK]", "[CLS]", "[SEP]", *"abcdehlorw", "hello", "world"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    saved = replace(trained(), tokenizer=Tokenizer(backend, 1, (2,)))
    export_model(saved, tmp_path / "model")
    tokenizer = read_model_folder(tmp_path / "model", "torch", "RUN").tokenizer
    ids = tokenizer.encode("hello world", 77)
    assert ids == [1, words["hello"], words["world"], 2]
    assert [tokenizer.is_end(number) for number in ids] == [False, False, False, True]
    assert tokenizer.decode(ids[1:]) == "hello world"


def test_an_export_that_is_another_model_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    export_model(trained(), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    saved = trained()
    assert saved.config.gate
    for faulty, sentence in (
        (replace(saved, config=replace(saved.config, fusion="joint")), "doesn't load back: What the folder"),
        (replace(saved, config=replace(saved.config, vision=replace(saved.config.vision, selection="0,4"))), "loss"),
        (replace(saved, tokenizer=Tokenizer(saved.tokenizer.backend, 5)), "tokenizer is not that"),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            export_model(faulty, folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_anything_else_is_not_replaced(tmp_path: Path) -> None:
    export_model(trained(), tmp_path / "model")
    export_model(trained(CONFIGS["joint"]), tmp_path / "model")
    assert read_model_folder(tmp_path / "model", "torch", "RUN").config.fusion == "joint"
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else than an export"):
        export_model(trained(), tmp_path / "model")
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"


def test_a_damaged_folder_is_one_sentence(tmp_path: Path) -> None:
    export_model(trained(), tmp_path / "model")
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    cases = (
        ("config.json", json.dumps(content | {"format": 2}).encode(), "has the format 2"),
        ("config.json", json.dumps(content | {"step": "x"}).encode(), "no readable config.json"),
        ("config.json", json.dumps(content | {"vision": 3}).encode(), "can't be read"),
        ("config.json", json.dumps(content | {"run": content["run"] | {"gate": False}}).encode(), "does not fit"),
        ("model.safetensors", weights[:-8], "can't be read"),
        ("model.safetensors", weights[:4], "can't be read"),
    )
    for number, (name, data, sentence) in enumerate(cases):
        folder = shutil.copytree(tmp_path / "model", tmp_path / str(number))
        (folder / name).write_bytes(data)
        with pytest.raises(UserError, match=sentence) as caught:
            read_model_folder(folder, "torch", "RUN")
        assert "\n" not in str(caught.value)
    grown = json.loads(json.dumps(content))
    grown["language"]["hidden_size"] = 48
    (tmp_path / "model" / "config.json").write_text(json.dumps(grown))
    with pytest.raises(UserError, match=r"does not fit its config\.json"):
        read_model_folder(tmp_path / "model", "torch", "RUN")
