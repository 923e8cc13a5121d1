"""An exported tower is the trained one, wherever it is loaded, or it is not there."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.17's at the top needs torchvision

from hive import export
from hive.config import TowerFamilyName
from hive.data.images import ImageSpec, load
from hive.errors import UserError
from hive.export import export_tower

TRANSFORMERS_4 = os.environ.get("HIVE_TRANSFORMERS_4")


SPEC = ImageSpec(size=16, mean=(0.25, 0.5, 0.75), std=(0.5, 0.25, 0.125), resize="square")
CROP = replace(SPEC, resize="crop")


def tower(family: TowerFamilyName, **changes: Any) -> PreTrainedModel:
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    } | changes
    torch.manual_seed(1)
    if family == "clip":
        return CLIPVisionModel(CLIPVisionConfig(**shape))
    return SiglipVisionModel(SiglipVisionConfig(**shape))


TOWERS = {
    "clip": lambda: tower("clip"),
    "clip of other settings": lambda: tower("clip", hidden_act="gelu", layer_norm_eps=1e-2, attention_dropout=0.5),
    "siglip": lambda: tower("siglip"),
    "siglip without its head": lambda: tower("siglip", vision_use_head=False),
}


def keys_below(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name.removeprefix("vision_model."): value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", TOWERS)
def test_round_trip(tmp_path: Path, kind: str) -> None:
    trained = TOWERS[kind]().train()
    trained.config.output_hidden_states = True
    random_state = torch.get_rng_state()
    export_tower(trained, tmp_path / "run" / "tower", SPEC)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in trained.modules())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tower"]

    stored = load_file(tmp_path / "run/tower/model.safetensors")
    assert stored.keys() == {f"vision_model.{name}" for name in keys_below(trained)}
    for loader in (AutoModel, type(trained)):
        loaded, report = loader.from_pretrained(tmp_path / "run/tower", output_loading_info=True)
        assert not any(report.values()), report
        assert type(loaded) is type(trained)
        assert not loaded.config.output_hidden_states
        expected, got = keys_below(trained), keys_below(loaded)
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_lower_precision_is_written_as_fp32(tmp_path: Path) -> None:
    trained = tower("siglip").bfloat16()
    export_tower(trained, tmp_path / "tower", SPEC)
    loaded = AutoModel.from_pretrained(tmp_path / "tower")
    assert loaded.dtype == torch.float32
    assert json.loads((tmp_path / "tower/config.json").read_text())["dtype"] == "float32"
    weight = trained.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    assert torch.equal(loaded.get_input_embeddings().weight, weight.float())


def test_no_local_path_is_written(tmp_path: Path) -> None:
    export_tower(tower("clip"), tmp_path / "first", SPEC)
    export_tower(CLIPVisionModel.from_pretrained(tmp_path / "first"), tmp_path / "second", SPEC)
    assert str(tmp_path) not in (tmp_path / "second/config.json").read_text()


@pytest.mark.parametrize(
    ("family", "spec", "processor"),
    [
        ("clip", SPEC, "CLIPImageProcessor"),
        ("clip", CROP, "CLIPImageProcessor"),
        ("siglip", SPEC, "SiglipImageProcessor"),
        ("siglip", CROP, "CLIPImageProcessor"),
    ],
)
@pytest.mark.parametrize("size", [(64, 32), (23, 37), (7, 5)])
def test_image_processor_gives_the_pixels_of_training(
    tmp_path: Path, family: TowerFamilyName, spec: ImageSpec, processor: str, size: tuple[int, int]
) -> None:
    export_tower(tower(family), tmp_path / "tower", spec)
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "tower")
    assert type(loaded).__name__.startswith(processor)
    x, y = np.meshgrid(np.linspace(0, 3, size[0]), np.linspace(0, 3, size[1]))
    waves = np.stack([np.sin(x + y), np.cos(x - y), np.sin(x * y)], axis=-1)
    image = Image.fromarray((127.5 + 127.5 * waves).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    trained_on = (load(buffer.getvalue(), spec, max_megapixels=1) / 255 - mean) / std
    pixels = loaded(image, return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, 16, 16)
    levels = (pixels - trained_on).abs() * std * 255
    assert levels.max() < 2.01  # of 255; the two round differently


def change_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def drop_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.popitem()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [(change_weight, "weights are not"), (drop_weight, "missing_keys"), (change_config, "last hidden state differs")],
)
def test_a_faulty_export_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], message: str
) -> None:
    export_tower(tower("clip"), tmp_path / "tower", SPEC)
    before = {path.name: path.read_bytes() for path in (tmp_path / "tower").iterdir()}
    write = export._write

    def faulty(vision_model: PreTrainedModel, folder: Path, spec: ImageSpec) -> None:
        write(vision_model, folder, spec)
        damage(folder)

    monkeypatch.setattr(export, "_write", faulty)
    with pytest.raises(RuntimeError, match=message):
        export_tower(tower("clip").half().float(), tmp_path / "tower", SPEC)
    assert [path.name for path in tmp_path.iterdir()] == ["tower"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "tower").iterdir()} == before


def test_an_earlier_export_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    (tmp_path / ".tower-0123abcd-older").mkdir()
    (tmp_path / ".tower-mine").mkdir()
    export_tower(tower("clip"), tmp_path / "tower", SPEC)
    export_tower(tower("siglip"), tmp_path / "tower", SPEC)
    assert isinstance(AutoModel.from_pretrained(tmp_path / "tower"), SiglipVisionModel)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tower-mine", "tower"]
    (tmp_path / "tower/notes.txt").touch()
    with pytest.raises(UserError, match="something other than an exported tower"):
        export_tower(tower("clip"), tmp_path / "tower", SPEC)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        export_tower(tower("clip"), tmp_path / "tower", SPEC)
    assert list(tmp_path.iterdir()) == []


LOAD_IN_4 = """
import sys
from pathlib import Path
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

assert transformers.__version__.startswith("4."), transformers.__version__
for folder in Path(sys.argv[1]).iterdir():
    for loader in (transformers.AutoModel, transformers.CLIPVisionModel if "clip" in folder.name
                   else transformers.SiglipVisionModel):
        model, report = loader.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values()), report
        stored, loaded = load_file(folder / "model.safetensors"), model.state_dict()
        assert stored.keys() == loaded.keys(), set(stored) ^ set(loaded)
        assert all(torch.equal(stored[name], loaded[name]) for name in stored)
        assert {value.dtype for value in loaded.values()} == {torch.float32}
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    pixels = processor(Image.open(sys.argv[2]), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        hidden = model.eval()(pixels).last_hidden_state
    save_file({"pixels": pixels, "hidden": hidden}, folder / "got")
"""


@pytest.mark.compat
@pytest.mark.skipif(TRANSFORMERS_4 is None, reason="HIVE_TRANSFORMERS_4 names no folder with transformers 4.57")
def test_transformers_4_loads_it_bit_equal(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 23, 3), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    towers = {
        f"{kind}, {spec.resize}": (make().eval(), tmp_path / "towers" / f"{kind}, {spec.resize}", spec)
        for kind, make in TOWERS.items()
        for spec in (SPEC, CROP)
    }
    for arguments in towers.values():
        export_tower(*arguments)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_IN_4, str(tmp_path / "towers"), str(tmp_path / "image.png")],
        env=os.environ | {"PYTHONPATH": str(TRANSFORMERS_4), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for trained, folder, _ in towers.values():
        there = load_file(folder / "got")
        pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(there["pixels"], pixels, rtol=0, atol=1e-5)
        with torch.no_grad():
            hidden = trained(pixel_values=there["pixels"]).last_hidden_state
        torch.testing.assert_close(there["hidden"], hidden, rtol=0, atol=1e-5)
