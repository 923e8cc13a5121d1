"""The tower's selected hidden states against transformers' own."""

import dataclasses

import pytest
import torch

from hive.config import TowerFamilyName
from hive.model.families import TOWERS, fresh_vision
from hive.model.vision import VisionTower
from tests.support.tiny_models import VISION, tiny_batch


@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.parametrize("selected", [(0, 2), (1, 3), (4,)])
def test_selected_states_are_transformers_hidden_states(family: TowerFamilyName, selected: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = fresh_vision(dataclasses.replace(VISION, family=family))
    tower, batch = VisionTower(model, selected), tiny_batch()
    pixels = tower.normalise(batch.pixels)
    states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    first_patch = states[0].shape[1] - tower.patches  # behind a class token
    expected = torch.stack([states[index][:, first_patch:] for index in selected])
    assert expected.shape[2] == tower.patches
    torch.testing.assert_close(tower(batch.pixels), expected, atol=1e-6, rtol=1e-5)


def test_normalisation_is_the_processors() -> None:
    tower = VisionTower(fresh_vision(VISION), (1,))
    pixel = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = torch.tensor([(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (0.2 - 0.40821073) / 0.27577711])
    torch.testing.assert_close(tower.normalise(pixel).flatten(), expected)


def test_a_frozen_tower_keeps_nothing_for_backward() -> None:
    tower = VisionTower(fresh_vision(VISION), (2,))
    tower.requires_grad_(False)
    assert not tower(tiny_batch().pixels).requires_grad


@pytest.mark.parametrize("family", TOWERS)
def test_reached_parameters_are_exactly_those_with_a_gradient(family: TowerFamilyName) -> None:
    model = fresh_vision(dataclasses.replace(VISION, family=family))
    tower = VisionTower(model, (1, 3))
    tower(tiny_batch().pixels).square().sum().backward()
    reached = {id(parameter) for parameter in tower.reached_parameters()}
    assert reached == {id(parameter) for parameter in tower.parameters() if parameter.grad is not None}
    assert len(reached) < len(list(tower.parameters()))
