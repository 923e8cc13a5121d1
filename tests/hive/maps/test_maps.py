"""Maps against gradients and weights that other means give."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import hive_kernels
from hive.config import Config
from hive.maps.attention import attention_maps, depths_of
from hive.maps.gradients import gradient_maps
from hive.model import fusion, language
from hive.model.build import Model
from hive.model.self_attention import interleave
from tests.support.tiny_models import BASELINE, JOINT, TINY, tiny_batch, tiny_model

methods = pytest.mark.parametrize("config", [TINY, JOINT, BASELINE], ids=["cross", "joint", "self-attention"])
TOKENS = torch.tensor([4, 1, 2])


def shifted_layers(model: Model) -> list[Tensor]:
    """Zeros that are added to each layer's output from now on: their gradient is that of the output."""
    layers = model.tower.parts.layers
    shifts = [torch.zeros(1, 5, 16, dtype=torch.float64, requires_grad=True) for _ in layers]
    for layer, shift in zip(layers, shifts, strict=True):
        layer.register_forward_hook(lambda _layer, _inputs, output, shift=shift: output + shift)
    return shifts


@methods
def test_gradient_maps(config: Config) -> None:
    model, batch = tiny_model(config).double(), tiny_batch((5,))
    for parameter in model.tower.parameters():
        parameter.requires_grad_(False)  # as after a run that ended with stage 2
    maps = gradient_maps(model, batch)
    assert not any(parameter.requires_grad for parameter in model.tower.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())

    model.requires_grad_(True)
    shifts = shifted_layers(model)
    model(batch).backward()
    read = len(model.tower.read_layers)
    assert [shift.grad is not None for shift in shifts] == [True] * read + [False] * (4 - read)
    for found, shift in zip(maps[:read], shifts, strict=False):
        assert shift.grad is not None
        torch.testing.assert_close(found.flatten().double(), shift.grad[0, 1:].square().sum(-1).sqrt())
    assert maps[:read].amin() > 0
    assert not maps[read:].any()


def test_gradient_maps_with_recomputed_and_compiled_layers() -> None:
    batch = tiny_batch((5,))
    expected = gradient_maps(tiny_model(), batch)
    recomputing = tiny_model(replace(TINY, checkpoint_activations=True))
    torch.testing.assert_close(gradient_maps(recomputing, batch), expected)
    compiled = tiny_model()
    for layer in compiled.tower.read_layers:
        layer.compile(backend="eager")
    compiled(batch)  # hooks come too late for what is compiled already
    torch.testing.assert_close(gradient_maps(compiled, batch), expected)


def patched(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[tuple[Tensor, ...]]:
    """The arguments with which the model calls an operation, call by call."""
    calls: list[tuple[Tensor, ...]] = []
    operation = getattr(hive_kernels, name)

    def recording(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return operation(*arguments, **named)

    monkeypatch.setattr(module, name, recording)
    return calls


def one_hot(keys: Tensor) -> Tensor:
    """Values [1, 4, Hkv, 4] that make an attention's output its weights over four patches."""
    return torch.eye(4, dtype=keys.dtype)[None, :, None].expand(keys.shape)


def test_cross_attention_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model().double(), tiny_batch((5,))
    calls = patched(monkeypatch, fusion, "cross_attention")
    maps = attention_maps(model, TINY, batch, TOKENS)
    assert (maps.decoder_layers, maps.hidden_states) == ((2, 4), (1, 3))
    assert maps.weights.shape == (2, 3, 6, 2, 2)
    for found, (query, key, _, cu_seqlens) in zip(maps.weights, calls, strict=True):
        expected = hive_kernels.cross_attention(query, key, one_hot(key), cu_seqlens, backend="reference")
        torch.testing.assert_close(found.flatten(-2), expected[TOKENS])
    torch.testing.assert_close(maps.weights.sum((-2, -1)), torch.ones(2, 3, 6).double())


def test_joint_fusion_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model(JOINT).double(), tiny_batch((5,))
    calls = patched(monkeypatch, language, "joint_attention")
    maps = attention_maps(model, TINY, batch, TOKENS)
    assert maps.decoder_layers == (2, 4)
    in_the_layers = calls[1::2]  # each after the call that measures what the image changes
    for found, (query, text_key, text_value, key, _, cu_seqlens) in zip(maps.weights, in_the_layers, strict=True):
        weights = hive_kernels.joint_attention(
            query, text_key, torch.zeros_like(text_value), key, one_hot(key), cu_seqlens, backend="reference"
        )
        torch.testing.assert_close(found.flatten(-2), weights[TOKENS])
    assert maps.weights.sum((-2, -1)).amax() < 1  # the rest went to the text


def test_self_attention_maps_are_those_of_transformers() -> None:
    model, batch = tiny_model(BASELINE).double(), tiny_batch((5,))
    maps = attention_maps(model, TINY, batch, TOKENS)
    assert (maps.decoder_layers, maps.hidden_states) == ((2, 4), (3, 3))

    inputs = []
    model.language.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    model(batch)
    llama = model.language.model
    llama.set_attn_implementation("eager")
    attentions = llama.model(inputs_embeds=inputs[0][None], output_attentions=True).attentions
    layout = interleave(batch, 4)
    for found, layer in zip(maps.weights, maps.decoder_layers, strict=True):
        expected = attentions[layer][0][:, layout.text_rows[TOKENS]][:, :, layout.image_rows].transpose(0, 1)
        torch.testing.assert_close(found.flatten(-2), expected)


@methods
def test_looking_changes_nothing(config: Config) -> None:
    model, batch = tiny_model(config), tiny_batch((5,))
    before = model(batch)
    run_layer = model.language.decoder_layer
    gradient_maps(model, batch)
    attention_maps(model, TINY, batch, TOKENS)
    assert torch.equal(model(batch), before)
    assert model.language.decoder_layer is run_layer
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("config", [TINY, JOINT], ids=["cross", "joint"])
def test_the_fused_kernels_give_the_same_maps(config: Config) -> None:
    batch = tiny_batch((5,))
    expected = attention_maps(tiny_model(config, "torch"), TINY, batch, TOKENS).weights
    found = attention_maps(tiny_model(config, "triton"), TINY, batch, TOKENS).weights
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_self_attention_is_shown_where_hive_would_read() -> None:
    baseline, hive = tiny_model(BASELINE), tiny_model()
    assert depths_of(baseline, TINY) == depths_of(hive, TINY) == (2, 4)


@methods
def test_maps_under_bf16_autocast(config: Config) -> None:
    model, batch = tiny_model(config), tiny_batch((5,))
    gradients, weights = gradient_maps(model, batch), attention_maps(model, TINY, batch, TOKENS).weights
    with torch.autocast("cpu", torch.bfloat16):
        rough_gradients = gradient_maps(model, batch)
        rough_weights = attention_maps(model, TINY, batch, TOKENS).weights
    assert rough_gradients.dtype == rough_weights.dtype == torch.float32
    assert not torch.equal(rough_weights, weights)
    torch.testing.assert_close(rough_weights, weights, atol=0.02, rtol=0.05)
    torch.testing.assert_close(rough_gradients, gradients, atol=0.05 * gradients.max().item(), rtol=0.1)
