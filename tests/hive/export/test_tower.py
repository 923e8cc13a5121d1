"""An exported tower is the trained one, wherever it is loaded, or it is not there."""

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
import torch.nn.functional as F
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
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from hive.config import TowerFamilyName
from hive.data.images import ImageSpec
from hive.export.loading import hidden_states, probe_image
from hive.export.tower import compare, ending_at, export_tower, trained_form
from tests.support.facts import made_up
from tests.support.image_modes import MODES, TRANSPARENT, encode, levels_apart, levels_between

TRANSFORMERS_4 = os.environ.get("HIVE_TRANSFORMERS_4")


KEPT = made_up(keeps_untrained=True)
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
    export_tower(trained, tmp_path / "run" / "tower", SPEC, KEPT)
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
    export_tower(trained, tmp_path / "tower", SPEC, KEPT)
    loaded = AutoModel.from_pretrained(tmp_path / "tower")
    assert loaded.dtype == torch.float32
    assert json.loads((tmp_path / "tower/config.json").read_text())["dtype"] == "float32"
    weight = trained.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    assert torch.equal(loaded.get_input_embeddings().weight, weight.float())


def test_no_local_path_is_written(tmp_path: Path) -> None:
    export_tower(tower("clip"), tmp_path / "first", SPEC, KEPT)
    export_tower(CLIPVisionModel.from_pretrained(tmp_path / "first"), tmp_path / "second", SPEC, KEPT)
    for path in (tmp_path / "second").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def pretrained(family: TowerFamilyName, layers: int = 3) -> PreTrainedModel:
    """With the gains, biases and pooling that a fresh tower does not have yet."""
    model = tower(family, num_hidden_layers=layers)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return model.eval()


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("read", [(1,), (1, 2), (3,), (0,)])
def test_an_export_ends_at_the_deepest_hidden_state_that_was_read(
    tmp_path: Path, family: TowerFamilyName, read: tuple[int, ...]
) -> None:
    """What stock classes give, against the whole tower's hidden state and the definition of its norm."""
    whole = pretrained(family)
    facts = made_up(read=read)
    export_tower(trained_form(whole, facts), tmp_path / "tower", SPEC, facts)
    loaded = AutoModel.from_pretrained(tmp_path / "tower")
    assert loaded.config.num_hidden_layers == max(1, read[-1])
    image = probe_image(whole)
    trained = hidden_states(whole, image)[read[-1]]
    with torch.no_grad():
        given = loaded.eval()(pixel_values=image, output_hidden_states=True)
    torch.testing.assert_close(given.hidden_states[-1], trained)
    normed = F.layer_norm(trained, (16,), eps=whole.config.layer_norm_eps)
    if family == "clip":
        torch.testing.assert_close(given.last_hidden_state, trained)
        torch.testing.assert_close(given.pooler_output, normed[:, 0])
    else:
        torch.testing.assert_close(given.last_hidden_state, normed)
        torch.testing.assert_close(given.pooler_output, normed.mean(1))
    assert len(hidden_states(whole, image)) == 4  # the trained tower is as it was


def test_a_tower_that_is_kept_whole_is_itself() -> None:
    whole = pretrained("siglip")
    assert trained_form(whole, KEPT) is whole


def test_a_layer_more_gives_its_input() -> None:
    whole = pretrained("clip")
    states = hidden_states(ending_at(whole, 3, layers=4), probe_image(whole))
    assert len(states) == 5
    torch.testing.assert_close(states[4], hidden_states(whole, probe_image(whole))[3])


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_pipeline_gives_the_trained_features(tmp_path: Path, family: TowerFamilyName) -> None:
    from transformers import ImageFeatureExtractionPipeline

    whole, facts = pretrained(family), made_up(read=(2,))
    export_tower(trained_form(whole, facts), tmp_path / "tower", SPEC, facts)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "tower")
    extract = ImageFeatureExtractionPipeline(AutoModel.from_pretrained(tmp_path / "tower"), image_processor=processor)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    trained = hidden_states(whole, pixels)[2]
    if family == "siglip":
        trained = F.layer_norm(trained, (16,), eps=whole.config.layer_norm_eps)
    torch.testing.assert_close(torch.tensor(extract(image)), trained)


# transformers 5.23 blends in every class, 5.17 in Chameleon's alone.
CLEAR = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
ALL_BLEND = np.asarray(CLIPImageProcessorPil(do_resize=False, do_center_crop=False)(CLEAR)["pixel_values"]).min() > 0


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("spec", [SPEC, CROP], ids=["square", "crop"])
def test_the_image_processor_gives_the_pixels_of_training(
    tmp_path: Path, family: TowerFamilyName, spec: ImageSpec
) -> None:
    """Of every mode that a PNG or a JPEG can have; by the class that the file names, and by those that programs name.

    Pixels may be 2.01 of 255 levels apart: blending and resizing each round to whole levels, once here and once there.
    torchvision, which transformers resizes with where it is installed, is up to 11 levels apart at hard edges. What an
    older transformers can't prepare is left out, as the model card says.
    """
    export_tower(tower(family), tmp_path / "tower", spec, KEPT)
    by_name = SiglipImageProcessorPil if spec.resize == "square" else CLIPImageProcessorPil
    for loader, left_out in ((AutoImageProcessor, {"RGB with a transparent colour"}), (by_name, TRANSPARENT)):
        processor = loader.from_pretrained(tmp_path / "tower")
        most = 2.01 if type(processor).__name__.endswith("Pil") else 11.01
        for name in MODES.keys() - (set() if ALL_BLEND else left_out):
            for size in ((64, 32), (23, 37), (7, 5)):
                apart = levels_apart(processor, encode(MODES[name](size)), spec)
                assert apart < most, (loader.__name__, name, size, apart)


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
def test_a_faulty_export_is_noticed(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    model = tower("clip")
    export_tower(model, tmp_path / "tower", SPEC, KEPT)
    compare(model, tmp_path / "tower")
    damage(tmp_path / "tower")
    with pytest.raises(RuntimeError, match=message):
        compare(model, tmp_path / "tower")


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
    transformers.CLIPImageProcessor.from_pretrained(folder)(Image.open(sys.argv[2]))
    pixels = processor(Image.open(sys.argv[2]), return_tensors="pt")["pixel_values"]
    modes = {
        path.name: processor(Image.open(path), return_tensors="pt")["pixel_values"]
        for path in Path(sys.argv[3]).iterdir()
    }
    with torch.no_grad():
        hidden = model.eval()(pixels).last_hidden_state
    save_file({"pixels": pixels, "hidden": hidden, **modes}, folder / "got")
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
    for trained, folder, spec in towers.values():
        export_tower(trained, folder, spec, KEPT)
    (tmp_path / "modes").mkdir()
    kinds = {name: encode(make((23, 37))) for name, make in MODES.items() if name != "RGB with a transparent colour"}
    for name, data in kinds.items():  # which is the one that 4.57 can't prepare, as the card says
        (tmp_path / "modes" / name).write_bytes(data)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            LOAD_IN_4,
            str(tmp_path / "towers"),
            str(tmp_path / "image.png"),
            str(tmp_path / "modes"),
        ],
        env=os.environ | {"PYTHONPATH": str(TRANSFORMERS_4), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for trained, folder, spec in towers.values():
        there = load_file(folder / "got")
        pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(there["pixels"], pixels, rtol=0, atol=1e-5)
        for name, data in kinds.items():
            assert levels_between(there[name][0], data, spec) < 2.01, name
        with torch.no_grad():
            hidden = trained(pixel_values=there["pixels"]).last_hidden_state
        torch.testing.assert_close(there["hidden"], hidden, rtol=0, atol=1e-5)
