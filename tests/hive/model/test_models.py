"""HIVE and the self-attention baseline as wholes: against slow definitions, without leaks, with the right gradients."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from hive.config import Config
from hive.data.text import Batch, pack
from hive.model.fusion import CrossAttentionBlock, HierarchicalFusion
from hive.model.projector import ResidualProjector
from hive.model.self_attention import interleave
from hive.stages import enter_stage, trained_parts
from tests.support.gradients import gradient
from tests.support.tiny_models import BASELINE, JOINT, TINY, tiny_batch, tiny_hive, tiny_model

LAYERWISE_MLP = replace(TINY, projector="mlp")
METHODS = pytest.mark.parametrize(
    "config", [TINY, JOINT, LAYERWISE_MLP, BASELINE], ids=["cross", "joint", "mlp", "self-attention"]
)


def one_sample(batch: Batch, index: int) -> Batch:
    start, end = batch.cu_seqlens[index : index + 2].tolist()
    ids = [*batch.tokens[start:end].tolist(), batch.targets[end - 1].item()]
    return pack([(batch.pixels[index], ids)])


@METHODS
def test_a_batch_is_the_sum_of_its_samples(config: Config) -> None:
    model, batch = tiny_model(config), tiny_batch()
    alone = sum(model(one_sample(batch, index)) for index in range(batch.samples))
    torch.testing.assert_close(model(batch), alone, atol=1e-4, rtol=1e-5)


@METHODS
def test_no_sample_sees_anothers_text_or_image(config: Config) -> None:
    """The gradient of one sample's loss is zero at every other sample's inputs, and not at its own."""
    model, batch = tiny_model(config), tiny_batch((3, 5, 2))
    embedded = model.language.embed(batch.tokens).detach().requires_grad_()
    pixels = batch.pixels.float().requires_grad_()
    model.language.model.model.embed_tokens.register_forward_hook(lambda *_: embedded)
    for sample in range(3):
        start, end = batch.cu_seqlens[sample : sample + 2].tolist()
        targets = torch.full_like(batch.targets, -100)  # no loss of a row
        targets[start:end] = batch.targets[start:end]
        loss = model(replace(batch, pixels=pixels, targets=targets))
        text, image = torch.autograd.grad(loss, (embedded, pixels))
        for other in range(3):
            first, last = batch.cu_seqlens[other : other + 2].tolist()
            assert (text[first:last].abs().sum() > 0) == (other == sample)
            assert (image[other].abs().sum() > 0) == (other == sample)


def test_the_layerwise_mlp_is_llavas_on_every_layer() -> None:
    projector, features = tiny_model(LAYERWISE_MLP).projector, torch.randn(2, 3, 4, 16)
    for layer, (state, out) in enumerate(zip(features, projector(features), strict=True)):
        w1, b1, w2, b2 = (parameter[layer] for parameter in projector.parameters())
        torch.testing.assert_close(out, F.gelu(state @ w1 + b1) @ w2 + b2)


def test_hive_equals_a_plain_definition() -> None:
    """One sample through textbook attention, written out with no shared code but transformers' layers."""
    model, batch = tiny_hive(), tiny_batch((4,))
    llama, fusion, projector = model.language.model, model.fusion, model.projector
    assert isinstance(fusion, HierarchicalFusion)
    assert isinstance(projector, ResidualProjector)
    assert projector.skip_weight is not None
    assert projector.skip_bias is not None
    vision, pixels = model.tower.model, model.tower.normalise(batch.pixels)
    states = vision(pixel_values=pixels, output_hidden_states=True).hidden_states
    hidden = llama.model.embed_tokens(batch.tokens)
    rotary = llama.model.rotary_emb(hidden, torch.arange(4)[None])
    heads, kv_heads, dim = 6, 2, 4
    causal = torch.full((4, 4), -math.inf).triu(1)[None, None]
    for depth, layer in enumerate(llama.model.layers):
        if depth in fusion.depths:
            s = fusion.depths.index(depth)
            x = F.layer_norm(
                states[model.tower.selected[s]][0, 1:], (16,), projector.norm_weight[s], projector.norm_bias[s]
            )
            inner = F.gelu(x @ projector.fc1_weight[s] + projector.fc1_bias[s])
            out = inner @ projector.fc2_weight[s] + projector.fc2_bias[s]
            y = out + x @ projector.skip_weight[s] + projector.skip_bias[s]
            key, value = (y @ fusion.key_value[s]).split(kv_heads * dim, dim=-1)
            block = fusion.blocks[s]
            assert isinstance(block, CrossAttentionBlock)
            assert block.gate is not None
            query = block.query(block.norm(hidden)).view(4, heads, dim)
            attended = torch.empty(4, heads, dim)
            for head in range(heads):
                columns = slice(head // 3 * dim, head // 3 * dim + dim)
                scores = query[:, head] @ key[:, columns].T / math.sqrt(dim)
                attended[:, head] = scores.softmax(-1) @ value[:, columns]
            hidden = hidden + torch.tanh(block.gate) * block.output(attended.flatten(1))
        hidden = layer(hidden[None], attention_mask=causal, position_embeddings=rotary)[0]
    logits = llama.lm_head(llama.model.norm(hidden))
    torch.testing.assert_close(
        model(batch), F.cross_entropy(logits, batch.targets, reduction="sum"), atol=1e-4, rtol=1e-5
    )


def test_joint_fusion_equals_a_plain_definition() -> None:
    """One sample; at the aligned depths a textbook softmax over the image's keys and the text's past."""
    model, batch = tiny_hive(JOINT), tiny_batch((4,))
    llama, fusion = model.language.model, model.fusion
    keys_values = fusion.key_value
    features = model.projector(model.tower(batch.pixels))[:, 0]  # [S, N, D]
    hidden = llama.model.embed_tokens(batch.tokens)
    cos, sin = llama.model.rotary_emb(hidden, torch.arange(4)[None])
    causal = torch.full((4, 4), -math.inf).triu(1)
    for depth, layer in enumerate(llama.model.layers):
        if depth not in fusion.depths:
            hidden = layer(hidden[None], attention_mask=causal[None, None], position_embeddings=(cos, sin))[0]
            continue
        s, attention, normed = fusion.depths.index(depth), layer.self_attn, layer.input_layernorm(hidden)
        image_key, image_value = (features[s] @ keys_values[s]).split(8, dim=-1)
        query, key = apply_rotary_pos_emb(
            attention.q_proj(normed).view(1, 4, 6, 4).transpose(1, 2),
            attention.k_proj(normed).view(1, 4, 2, 4).transpose(1, 2),
            cos,
            sin,
        )
        value, attended = attention.v_proj(normed), torch.empty(4, 6, 4)
        for head in range(6):
            columns = slice(head // 3 * 4, head // 3 * 4 + 4)
            scores = torch.cat([query[0, head] @ image_key[:, columns].T, query[0, head] @ key[0, head // 3].T], -1) / 2
            scores[:, -4:] += causal
            attended[:, head] = scores.softmax(-1) @ torch.cat([image_value[:, columns], value[:, columns]])
        hidden = hidden + attention.o_proj(attended.flatten(1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    logits = llama.lm_head(llama.model.norm(hidden))
    expected = F.cross_entropy(logits, batch.targets, reduction="sum")
    torch.testing.assert_close(model(batch), expected, atol=1e-4, rtol=1e-5)


def test_self_attention_equals_transformers_on_the_joined_sequence() -> None:
    model, batch = tiny_model(BASELINE), tiny_batch((4,))
    states = model.tower.model(
        pixel_values=model.tower.normalise(batch.pixels), output_hidden_states=True
    ).hidden_states
    image = model.projector(states[-2][0, 1:])
    text = model.language.embed(batch.tokens)
    joined = torch.cat([text[:1], image, text[1:]])[None]
    logits = model.language.model(inputs_embeds=joined).logits[0, 4:]
    torch.testing.assert_close(
        model(batch), F.cross_entropy(logits, batch.targets, reduction="sum"), atol=1e-4, rtol=1e-5
    )


def test_interleaved_rows_by_hand() -> None:
    layout = interleave(tiny_batch((2, 1)), patches=3)  # BOS i i i t | BOS i i i
    assert layout.text_rows.tolist() == [0, 4, 5]
    assert layout.image_rows.tolist() == [1, 2, 3, 6, 7, 8]
    assert layout.predicting_rows.tolist() == [3, 4, 8]
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert layout.cu_seqlens.tolist() == [0, 5, 9]


@METHODS
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_exactly_the_trained_parts_get_gradients(config: Config, stage: int) -> None:
    model = tiny_model(config)
    parameters = enter_stage(model, trained_parts(config, stage))
    model(tiny_batch()).backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(parameters)
    assert all(gradient(parameter).abs().sum() > 0 for parameter in parameters.values())


def test_a_closed_gate_leaves_the_language_model_as_it_was() -> None:
    model, batch = tiny_hive(), tiny_batch()
    assert isinstance(model.fusion, HierarchicalFusion)
    for block in model.fusion.blocks:
        assert isinstance(block, CrossAttentionBlock)
        assert block.gate is not None
        torch.nn.init.zeros_(block.gate)
    alone = model.language.loss(model.language(model.language.embed(batch.tokens), batch), batch.targets)
    torch.testing.assert_close(model(batch), alone)


@METHODS
def test_reference_and_torch_kernels_agree(config: Config) -> None:
    batch = tiny_batch()
    losses = [tiny_model(config, backend)(batch) for backend in ("reference", "torch")]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=0)


def test_blocks_start_from_their_host_layer() -> None:
    model = tiny_hive()
    fusion = model.fusion
    assert isinstance(fusion, HierarchicalFusion)
    for depth, block, key_value in zip(fusion.depths, fusion.blocks, fusion.key_value, strict=True):
        host = model.language.model.model.layers[depth]
        assert isinstance(block, CrossAttentionBlock)
        assert torch.equal(block.query.weight, host.self_attn.q_proj.weight)
        assert torch.equal(block.output.weight, host.self_attn.o_proj.weight)
        assert torch.equal(key_value[:, :8], host.self_attn.k_proj.weight.T)
        assert torch.equal(key_value[:, 8:], host.self_attn.v_proj.weight.T)


@METHODS
@pytest.mark.parametrize("stage", [1, 3])
def test_bf16_autocast_trains_as_fp32_does(config: Config, stage: int) -> None:
    """What a GPU run does: fp32 weights and gradients, products in bf16, and no dtype that doesn't fit another."""
    model, batch = tiny_model(config), tiny_batch()
    parameters = enter_stage(model, trained_parts(config, stage))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(gradient(parameter).dtype == torch.float32 for parameter in parameters.values())
    torch.testing.assert_close(loss, model(batch), rtol=0.02, atol=0)


@pytest.mark.parametrize("config", [TINY, JOINT, BASELINE], ids=["cross", "joint", "self-attention"])
def test_compiled_layers_are_whole_graphs_and_change_no_gradient(config: Config) -> None:
    """What --compile compiles, over texts that have to be padded; eager in fp64 is the truth."""
    model, batch = tiny_model(config).double(), tiny_batch((7, 1, 4))
    model(batch).backward()
    expected = {name: gradient(x) for name, x in model.named_parameters() if x.grad is not None}
    model.zero_grad()
    torch._dynamo.reset()
    for layer in model.tower.read_layers:
        layer.compile(backend="eager", fullgraph=True)
    decoder_layer = model.language.decoder_layer
    model.language.decoder_layer = torch.compile(decoder_layer, backend="eager", fullgraph=True, dynamic=True)
    model(batch).backward()
    actual = {name: gradient(x) for name, x in model.named_parameters() if x.grad is not None}
    torch.testing.assert_close(actual, expected)
