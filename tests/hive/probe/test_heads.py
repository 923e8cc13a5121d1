"""Heads trained side by side are the heads that torch's own modules and optimiser would train one by one."""

import math

import pytest
import torch
from torch import nn

from hive.probe.adamw import BatchedAdamW
from hive.probe.heads import AttentionHeads, Heads, LinearHeads, losses

SEEDS, POINTS, WIDTH, CLASSES, ATTENTION_HEADS, BATCH, TOKENS = [3, 4], 3, 8, 5, 2, 7, 6
DECAYS = [0.0, 0.1, 0.5]
RATES = [1e-2, 3e-3, 5e-2]


class AuthorsProbe(nn.Module):
    """One attention head in torch's own modules, with the weights of head (r, g)."""

    def __init__(self, heads: AttentionHeads, r: int, g: int) -> None:
        super().__init__()
        p = {name: value.detach()[r, g].clone() for name, value in heads.named_parameters()}
        self.norm = nn.LayerNorm(WIDTH, eps=1e-5)
        self.query = nn.Parameter(p["query"])
        self.attention = nn.MultiheadAttention(WIDTH, ATTENTION_HEADS, batch_first=True)
        self.classifier = nn.Linear(WIDTH, CLASSES)
        self.double()
        with torch.no_grad():
            self.norm.weight.copy_(p["norm_weight"])
            self.norm.bias.copy_(p["norm_bias"])
            parts = [p[f"{name}_weight"] for name in ("query", "key", "value")]
            self.attention.in_proj_weight.copy_(torch.cat(parts))
            self.attention.in_proj_bias.zero_()
            self.attention.in_proj_bias[:WIDTH] = p["query_bias"]
            self.attention.in_proj_bias[2 * WIDTH :] = p["value_bias"]
            self.attention.out_proj.weight.copy_(p["output_weight"])
            self.attention.out_proj.bias.copy_(p["output_bias"])
            self.classifier.weight.copy_(p["classifier_weight"])
            self.classifier.bias.copy_(p["classifier_bias"])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norm(tokens)
        return self.classifier(self.attention(self.query.expand(len(x), 1, WIDTH), x, x, need_weights=False)[0][:, 0])


def random_heads(heads: Heads) -> Heads:
    """fp64, with no parameter left at a value that would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    heads.double()
    for parameter in heads.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return heads


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shared", [False, True])
def test_attention_heads_are_torchs_layernorm_attention_and_linear(shared: bool) -> None:
    heads = AttentionHeads(SEEDS, POINTS, WIDTH, CLASSES, ATTENTION_HEADS)
    random_heads(heads)
    raw = tokens(1 if shared else len(SEEDS), BATCH, TOKENS, WIDTH)
    logits = heads(nn.functional.layer_norm(raw, (WIDTH,), eps=1e-5))
    assert logits.shape == (len(SEEDS), BATCH, POINTS, CLASSES)
    for r in range(len(SEEDS)):
        for g in range(POINTS):
            torch.testing.assert_close(logits[r, :, g], AuthorsProbe(heads, r, g)(raw[0 if shared else r]))


def test_linear_heads() -> None:
    heads = LinearHeads(SEEDS, POINTS, WIDTH, CLASSES)
    random_heads(heads)
    x = tokens(len(SEEDS), BATCH, WIDTH)
    logits = heads(x)
    for r in range(len(SEEDS)):
        for g in range(POINTS):
            torch.testing.assert_close(logits[r, :, g], x[r] @ heads.weight[r, g].T + heads.bias[r, g])


def test_a_seed_starts_all_its_grid_points_alike() -> None:
    for heads in (
        AttentionHeads(SEEDS, POINTS, WIDTH, CLASSES, ATTENTION_HEADS),
        LinearHeads(SEEDS, POINTS, WIDTH, CLASSES),
    ):
        for name, value in heads.named_parameters():
            assert torch.equal(value[:, :1].expand_as(value), value), name
        weight = next(value for name, value in heads.named_parameters() if name.endswith("weight") and value.std() > 0)
        assert not torch.equal(weight[0], weight[1])


def test_initial_weights_are_spread_like_torchs() -> None:
    heads = AttentionHeads([0], 1, 64, CLASSES, ATTENTION_HEADS)
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(64, ATTENTION_HEADS).in_proj_weight
    for name in ("query", "key", "value"):
        weight = dict(heads.named_parameters())[f"{name}_weight"]
        assert weight.std().item() == pytest.approx(reference.std().item(), rel=0.05)
        assert weight.abs().max().item() == pytest.approx(reference.abs().max().item(), rel=0.05)


@pytest.mark.parametrize("clip", [1e9, 0.05])
def test_side_by_side_is_one_by_one(clip: float) -> None:
    """Ten steps of every head: the same losses and weights as with torch.optim.AdamW and clip_grad_norm_ alone."""
    heads = AttentionHeads(SEEDS, POINTS, WIDTH, CLASSES, ATTENTION_HEADS)
    random_heads(heads)
    raw = tokens(10, len(SEEDS), BATCH, TOKENS, WIDTH)
    labels = torch.randint(0, CLASSES, (10, len(SEEDS), BATCH), generator=torch.Generator().manual_seed(2))
    alone = {(r, g): AuthorsProbe(heads, r, g) for r in range(len(SEEDS)) for g in range(POINTS)}

    optimizer = BatchedAdamW(heads.parameters(), torch.tensor(DECAYS, dtype=torch.float64))
    together = []
    for step in range(10):
        loss = losses(heads(nn.functional.layer_norm(raw[step], (WIDTH,), eps=1e-5)), labels[step])
        loss.sum().backward()
        optimizer.step(torch.tensor(RATES, dtype=torch.float64) * (step + 1) / 10, clip)
        together.append(loss.detach())

    for (r, g), one in alone.items():
        reference = torch.optim.AdamW(one.parameters(), weight_decay=DECAYS[g], betas=(0.9, 0.999))
        for step in range(10):
            reference.param_groups[0]["lr"] = RATES[g] * (step + 1) / 10
            loss = nn.functional.cross_entropy(one(raw[step, r]), labels[step, r])
            reference.zero_grad()
            loss.backward()
            assert one.attention.in_proj_bias.grad is not None
            one.attention.in_proj_bias.grad[WIDTH : 2 * WIDTH] = (
                0  # of the key bias: rounding, which Adam would blow up
            )
            nn.utils.clip_grad_norm_(one.parameters(), clip)
            reference.step()
            assert together[step][r, g].item() == pytest.approx(loss.item(), abs=1e-6)
        got = AuthorsProbe(heads, r, g).state_dict()
        for name, value in one.state_dict().items():
            torch.testing.assert_close(got[name], value, rtol=0, atol=1e-6)


def test_keep_leaves_one_grid_point() -> None:
    heads = random_heads(LinearHeads(SEEDS, POINTS, WIDTH, CLASSES))
    x = tokens(1, BATCH, WIDTH)
    expected = heads(x)[:, :, 1:2]
    heads.keep(1)
    assert torch.equal(heads(x), expected)


def test_fresh_heads_guess() -> None:
    heads = LinearHeads(SEEDS, POINTS, WIDTH, CLASSES).double()
    loss = losses(heads(tokens(2, BATCH, WIDTH)), torch.zeros(2, BATCH, dtype=torch.int64))
    assert loss.shape == (2, POINTS)
    assert loss.detach().numpy() == pytest.approx(math.log(CLASSES), abs=0.1)
