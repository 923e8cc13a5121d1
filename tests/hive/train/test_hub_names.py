"""A run from names on the hub: a dry run asks nobody, the run downloads once, and without a hub it ends at once."""

from pathlib import Path

import pytest

from hive.config import LanguageConfig, TowerConfig
from hive.model.families import fresh_language
from hive.train.cli import parse
from hive.train.dry_run import report
from hive.train.outline import outline
from hive.vlm.model import image_shape
from tests.support.fake_hub import closed_endpoint, serve_hub
from tests.support.hub_layouts import CLIP_L_336, mobilellm
from tests.support.tiny_run import FLAGS, train

LANGUAGE, VISION = "facebook/MobileLLM-125M", "openai/clip"


def publish(hub: Path) -> None:
    """The paper's pair of models, with images of 28 pixels."""
    language, vision = hub / LANGUAGE, hub / VISION
    for folder in (language, vision):
        folder.mkdir(parents=True)
    layout = mobilellm(9, 3)
    layout.write(language)
    (language / "modeling_mobilellm.py").write_text("raise SystemExit")
    shape = LanguageConfig(hidden_size=72, layers=2, heads=9, kv_heads=3, mlp_size=96, vocab_size=340)
    layout.write_weights(language, fresh_language(shape))
    CLIP_L_336.write(vision, {"size": 28, "crop_size": 28}, {"image_size": 28}, vision_config_dict=None)
    CLIP_L_336.write_weights(vision)


def connect(monkeypatch: pytest.MonkeyPatch, cache: Path, endpoint: str) -> None:
    """What the environment says in a process of its own."""
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(cache),
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)


def test_a_run_from_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    publish(tmp_path / "hub")
    flags = [*FLAGS.split(), "--vision.weights", VISION, "--language.weights", LANGUAGE, "--max-steps", "1",
             "--stages", "3", "--dataset.heldout-pairs", "2"]  # fmt: skip

    connect(monkeypatch, tmp_path / "nothing", closed_endpoint())
    assert train(flags) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: The tokenizer {LANGUAGE} is neither a folder here nor in the hub's cache, and the")
    assert said.count("\n") == 1

    with serve_hub(tmp_path / "hub") as (endpoint, asked):
        connect(monkeypatch, tmp_path / "cache", endpoint)
        text = report(outline(parse(flags).config))
        assert text.count("missing: --") == 2
        assert asked == []
        assert train([*flags, "--out", str(tmp_path / "run")]) == 0
    downloads = [path.rpartition("/")[2] for path in asked if "/resolve/" in path]
    assert {"tokenizer.model", "pytorch_model.bin", "config.json"} <= set(downloads)
    assert "modeling_mobilellm.py" not in downloads

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "Nothing is missing." in report(outline(parse(flags).config))
    assert train([*flags, "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "tower" / "model.safetensors").is_file()


def test_the_chat_of_a_tower_on_the_hub_has_its_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "hub")
    config = TowerConfig(weights=VISION, image_size=64, patch_size=16)
    with serve_hub(tmp_path / "hub") as (endpoint, asked):
        connect(monkeypatch, tmp_path / "cache", endpoint)
        assert image_shape(config, pretrained=False) == (16, 64)
        assert asked == []
        assert image_shape(config, pretrained=True) == (4, 28)
