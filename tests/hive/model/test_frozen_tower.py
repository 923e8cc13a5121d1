"""The frozen tower against the tower that it copies, and the refusals of 8-bit products."""

import dataclasses
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hive.config import Config, TowerFamilyName
from hive.errors import UserError
from hive.model.eight_bit import EightBit, check_eight_bit
from hive.model.families import TOWERS, fresh_vision
from hive.model.frozen_tower import FrozenTower, frozen_effect
from hive.model.vision import VisionTower
from tests.support.tiny_models import BASELINE, JOINT, TINY, VISION, tiny_batch, tiny_model

FAMILIES = pytest.mark.parametrize("family", TOWERS)


def tower_of(family: TowerFamilyName, selected: tuple[int, ...]) -> VisionTower:
    """Weights at ten times their usual size, so that attention and activations are far from linear."""
    torch.manual_seed(0)
    model = fresh_vision(dataclasses.replace(VISION, family=family))
    with torch.no_grad():
        for parameter in model.get_submodule("encoder").parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return VisionTower(model, selected).requires_grad_(False)


@FAMILIES
@pytest.mark.parametrize("selected", [(0,), (0, 2), (1, 3), (4,)])
def test_fp32_is_the_towers_own_forward(family: TowerFamilyName, selected: tuple[int, ...]) -> None:
    tower, pixels = tower_of(family, selected), tiny_batch().pixels
    torch.testing.assert_close(FrozenTower(tower, torch.float32)(pixels), tower(pixels), atol=1e-5, rtol=1e-5)


@FAMILIES
def test_bf16_rounds_as_autocast_does(family: TowerFamilyName) -> None:
    tower, pixels = tower_of(family, (0, 2, 4)), tiny_batch().pixels
    with torch.autocast("cpu", torch.bfloat16):
        autocast = tower(pixels)
        frozen = FrozenTower(tower, torch.bfloat16)(pixels)
    exact = tower.double()(pixels)
    errors = [(features - exact).flatten(1).norm(dim=1) for features in (frozen, autocast)]
    assert frozen.dtype == torch.float32
    assert (errors[0] <= 2 * errors[1]).all()


@pytest.mark.parametrize("config", [TINY, JOINT, BASELINE], ids=["cross", "joint", "self-attention"])
def test_gradients_behind_it_are_those_behind_the_tower(config: Config) -> None:
    model, batch = tiny_model(config), tiny_batch()
    model.tower.requires_grad_(False)
    gradients = []
    for encode in (None, FrozenTower(model.tower, torch.float32)):
        loss = model(batch, encode)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients.append(torch.autograd.grad(loss, trained, allow_unused=True))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)


def test_the_effect_is_a_relative_error_of_each_state() -> None:
    tower, pixels = tower_of("siglip", (0, 2, 4)), tiny_batch().pixels
    assert max(frozen_effect(tower, pixels, ["autocast"], torch.float32)["autocast"]) < 1e-5
    rounded = frozen_effect(tower, pixels, ["autocast"])["autocast"]
    assert len(rounded) == 3
    assert all(1e-4 < error < 0.03 for error in rounded)


@FAMILIES
def test_int8_stays_close(family: TowerFamilyName) -> None:
    """Half a step of 127 in weights and activations, over four layers: some percent."""
    pytest.importorskip("torchao")
    tower, pixels = tower_of(family, (0, 2, 4)), tiny_batch().pixels
    embeddings, *states = frozen_effect(tower, pixels, ["int8"], torch.float32)["int8"]
    assert embeddings < 1e-6, "only the layers' products are rounded"
    assert all(1e-3 < error < 0.06 for error in states)


def test_fp8_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--vision\.frozen-precision fp8 needs a GPU, and this run is on a CPU: use "):
        FrozenTower(tower_of("clip", (4,)), torch.float32, "fp8")


def test_without_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(UserError, match=r"needs torchao .*: pip install") as caught:
        FrozenTower(tower_of("clip", (4,)), torch.float32, "int8")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("precision", "capability", "compiled", "mlp_size", "sentence"),
    [
        ("fp8", (8, 6), True, 64, r"fp8 needs a GPU of compute capability 8\.9 or above, and this one has 8\.6"),
        ("int8", (7, 5), True, 64, r"int8 needs a GPU of compute capability 8\.0 or above, and this one has 7\.5"),
        ("int8", (9, 0), False, 64, "int8 needs --compile on a GPU"),
        ("int8", (9, 0), True, 72, "int8 needs widths that 16 divides, but the tower has one of 72"),
    ],
)
def test_gpus_that_cant(
    precision: EightBit,
    capability: tuple[int, int],
    compiled: bool,
    mlp_size: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    model = fresh_vision(dataclasses.replace(VISION, hidden_size=32, mlp_size=mlp_size))
    tower = VisionTower(model, (4,))
    with FakeTensorMode():
        tower.mean = torch.empty(3, device="cuda")  # has the GPU's name and needs no GPU
    with pytest.raises(UserError, match=sentence):
        check_eight_bit(precision, tower, compiled)


def test_apples_gpu_has_no_8_bits() -> None:
    tower = VisionTower(fresh_vision(dataclasses.replace(VISION, hidden_size=32)), (4,))
    with FakeTensorMode():
        tower.mean = torch.empty(3, device="mps")
    with pytest.raises(UserError, match="int8 runs on NVIDIA GPUs and CPUs, and this run is on mps: take another"):
        check_eight_bit("int8", tower, True)
