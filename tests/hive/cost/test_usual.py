"""transformers' own LLaVA against our baseline: one loss from the same weights, whatever the lengths."""

import dataclasses

import pytest
import torch

from hive.config import TowerFamilyName
from hive.cost.methods import build
from hive.cost.usual import UsualLlava
from hive.model.families import TOWERS
from hive.model.self_attention import SelfAttentionModel
from tests.support.tiny_models import TINY, tiny_batch


@pytest.mark.parametrize("lengths", [(3, 5, 2), (4, 4)])
@pytest.mark.parametrize("family", TOWERS)
def test_the_loss_of_our_baseline(family: TowerFamilyName, lengths: tuple[int, ...]) -> None:
    config = dataclasses.replace(TINY, vision=dataclasses.replace(TINY.vision, family=family))
    ours, usual = build(config, "self-attention", "torch"), build(config, "transformers", "torch")
    assert isinstance(ours, SelfAttentionModel)
    assert isinstance(usual, UsualLlava)
    usual.llava.model.vision_tower.load_state_dict(ours.tower.model.state_dict())
    usual.llava.model.language_model.load_state_dict(ours.language.model.model.state_dict())
    usual.llava.lm_head.load_state_dict(ours.language.model.lm_head.state_dict())
    connector = usual.llava.model.multi_modal_projector
    connector.linear_1.load_state_dict(ours.projector[0].state_dict())
    connector.linear_2.load_state_dict(ours.projector[2].state_dict())
    batch = tiny_batch(lengths)
    batch = dataclasses.replace(batch, tokens=batch.tokens.clamp(max=48), targets=batch.targets.clamp(max=48))
    mine, theirs = ours(batch), usual(batch)
    assert theirs.item() == pytest.approx(mine.item(), rel=1e-5)
    mine.backward()
    theirs.backward()
    first = ours.language.model.model.layers[0].mlp.up_proj.weight.grad
    assert torch.allclose(usual.llava.model.language_model.layers[0].mlp.up_proj.weight.grad, first, atol=1e-4)
