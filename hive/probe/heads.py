"""Many heads in one: every parameter has leading dimensions [seeds, grid points].

R seeds, G grid points, B images, N tokens, D width of the tower, H attention heads, C classes. Heads don't
influence each other: the gradient of the summed losses is, for each head, that of its loss.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Heads(nn.Module):
    """R x G classifiers that share their inputs."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [R, B, G, C] of inputs [R or 1, B, ...]: one batch a seed, or one for all seeds."""
        raise NotImplementedError

    @torch.no_grad()
    def keep(self, point: int) -> None:
        """Drops the parameters of every grid point but `point`; G is 1 afterwards."""
        for parameter in self.parameters():
            parameter.data = parameter.data[:, point : point + 1].contiguous()


class LinearHeads(Heads):
    """Linear classifiers of pooled features [R or 1, B, D]."""

    def __init__(self, seeds: list[int], points: int, width: int, classes: int) -> None:
        """Weights are normal with deviation 0.01, the same at all grid points of a seed; biases are 0."""
        super().__init__()
        weight = torch.stack([0.01 * torch.randn(classes, width, generator=_seeded_generator(seed)) for seed in seeds])
        self.weight = _repeat_points(weight, points)  # [R, G, C, D]
        self.bias = _repeat_points(torch.zeros(len(seeds), classes), points)

    def forward(self, x: Tensor) -> Tensor:
        return _apply_linear(x.unsqueeze(1), self.weight, self.bias).transpose(1, 2)


class AttentionHeads(Heads):
    """The authors' probe: LayerNorm, attention of one learned query over the tokens, a projection, a classifier.

    It computes what nn.LayerNorm, nn.MultiheadAttention and nn.Linear do, in an order that suits many heads: the key
    projection is applied to the query and the value projection to the weighted mean of the tokens, so no head makes
    keys or values of N tokens. The key bias, which softmax ignores, is left out. Inputs are tokens [R or 1, B, N, D]
    that are already normalised over their channels; a head adds LayerNorm's gain and bias.
    """

    def __init__(self, seeds: list[int], points: int, width: int, classes: int, attention_heads: int) -> None:
        """Xavier-uniform query and input projections, LeCun-normal output projection, as in the authors' probe."""
        super().__init__()
        assert width % attention_heads == 0, (width, attention_heads)
        self.attention_heads = attention_heads
        drawn: dict[str, list[Tensor]] = {}
        for seed in seeds:
            for name, value in _draw_attention(width, classes, _seeded_generator(seed)).items():
                drawn.setdefault(name, []).append(value)
        for name, values in drawn.items():
            self.register_parameter(name, _repeat_points(torch.stack(values), points))

    def forward(self, x: Tensor) -> Tensor:
        p = dict(self.named_parameters())
        (G, D), H = p["norm_weight"].shape[1:], self.attention_heads
        B, N = x.shape[1:3]

        def split(projection: Tensor) -> Tensor:  # [R, G, D, ...] to [R, G, H, D / H, ...]
            return projection.unflatten(2, (H, D // H))

        query = split(torch.einsum("rgij,rgj->rgi", p["query_weight"], p["query"]) + p["query_bias"])
        projected = torch.einsum("rghk,rghkj->rghj", query, split(p["key_weight"])) * p["norm_weight"].unsqueeze(2)
        projected = projected.flatten(1, 2) / math.sqrt(D // H)  # [R, G H, D]
        scores = x.flatten(1, 2) @ projected.transpose(1, 2)  # [R, B N, G H]
        weights = scores.unflatten(1, (B, N)).softmax(2).transpose(2, 3)  # [R, B, G H, N]
        mean = (weights @ x).unflatten(2, (G, H))  # [R, B, G, H, D]
        mean = mean * p["norm_weight"][:, None, :, None] + p["norm_bias"][:, None, :, None]
        pooled = torch.einsum("rbghj,rghkj->rgbhk", mean, split(p["value_weight"])).flatten(3)  # [R, G, B, D]
        pooled = pooled + p["value_bias"].unsqueeze(2)
        pooled = _apply_linear(pooled, p["output_weight"], p["output_bias"])
        return _apply_linear(pooled, p["classifier_weight"], p["classifier_bias"]).transpose(1, 2)


def _draw_attention(width: int, classes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Returns one seed's initial parameters by name, without the leading dimensions."""
    parameters = {
        "norm_weight": torch.ones(width),
        "norm_bias": torch.zeros(width),
        "query": nn.init.xavier_uniform_(torch.empty(1, width), generator=generator)[0],
    }
    # nn.MultiheadAttention keeps the three input projections in one [3 D, D] matrix, which Xavier's bound is for
    bound = math.sqrt(6 / (4 * width))
    for name in ("query", "key", "value"):
        parameters[f"{name}_weight"] = torch.empty(width, width).uniform_(-bound, bound, generator=generator)
    for name in ("query", "value", "output"):
        parameters[f"{name}_bias"] = torch.zeros(width)
    deviation = 1 / math.sqrt(width)
    weight = torch.empty(width, width)
    parameters["output_weight"] = nn.init.trunc_normal_(weight, 0, deviation, -2, 2, generator=generator)
    parameters["classifier_weight"] = 0.01 * torch.randn(classes, width, generator=generator)
    parameters["classifier_bias"] = torch.zeros(classes)
    return parameters


def _apply_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns [R, G, B, out], one linear layer a head: x [R or 1, G or 1, B, in], weight [R, G, out, in]."""
    return x @ weight.transpose(2, 3) + bias.unsqueeze(2)


def _seeded_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _repeat_points(parameter: Tensor, points: int) -> nn.Parameter:
    """Returns a parameter [R, points, ...] with the value [R, ...] at every grid point."""
    return nn.Parameter(parameter.unsqueeze(1).repeat(1, points, *[1] * (parameter.ndim - 1)))


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross-entropy of each head, [R, G], from logits [R, B, G, C] and labels [R, B]."""
    R, B, G, C = logits.shape
    targets = labels.unsqueeze(2).expand(R, B, G)
    return F.cross_entropy(logits.reshape(-1, C), targets.reshape(-1), reduction="none").view(R, B, G).mean(1)
