"""Many heads in one: every parameter has leading dimensions [seeds, grid points].

R seeds, G grid points, B images, N tokens, D width of the tower, H attention heads, C classes. No head sees another:
the gradient of the summed losses is each head's own.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Heads(nn.Module):
    """R x G classifiers that share their inputs."""

    def forward(self, x: Tensor) -> Tensor:
        """Inputs [R or 1, B, ...], one batch a seed or one for all, to logits [R, B, G, C]."""
        raise NotImplementedError

    @torch.no_grad()
    def keep(self, point: int) -> None:
        """Forgets every grid point but one."""
        for parameter in self.parameters():
            parameter.data = parameter.data[:, point : point + 1].contiguous()


class LinearHeads(Heads):
    """Linear classifiers of pooled features [R or 1, B, D]."""

    def __init__(self, seeds: list[int], points: int, width: int, classes: int) -> None:
        """Weights are normal with deviation 0.01, the same at all grid points of a seed; biases are 0."""
        super().__init__()
        weight = torch.stack([0.01 * torch.randn(classes, width, generator=_generator(seed)) for seed in seeds])
        self.weight = _repeated(weight, points)  # [R, G, C, D]
        self.bias = _repeated(torch.zeros(len(seeds), classes), points)

    def forward(self, x: Tensor) -> Tensor:
        return _classify(x.unsqueeze(1), self.weight, self.bias).transpose(1, 2)


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
            for name, value in _fresh_attention(width, classes, _generator(seed)).items():
                drawn.setdefault(name, []).append(value)
        for name, values in drawn.items():
            self.register_parameter(name, _repeated(torch.stack(values), points))

    def forward(self, x: Tensor) -> Tensor:
        p = dict(self.named_parameters())
        (G, D), H = p["norm_weight"].shape[1:], self.attention_heads
        B, N = x.shape[1:3]

        def split(projection: Tensor) -> Tensor:  # [R, G, D, ...] to [R, G, H, D / H, ...]
            return projection.unflatten(2, (H, D // H))

        query = split(torch.einsum("rgij,rgj->rgi", p["query_weight"], p["query"]) + p["query_bias"])
        reader = torch.einsum("rghk,rghkj->rghj", query, split(p["key_weight"])) * p["norm_weight"].unsqueeze(2)
        reader = reader.flatten(1, 2) / math.sqrt(D // H)  # [R, G H, D]
        scores = x.flatten(1, 2) @ reader.transpose(1, 2)  # [R, B N, G H]
        weights = scores.unflatten(1, (B, N)).softmax(2).transpose(2, 3)  # [R, B, G H, N]
        seen = (weights @ x).unflatten(2, (G, H))  # [R, B, G, H, D]
        seen = seen * p["norm_weight"][:, None, :, None] + p["norm_bias"][:, None, :, None]
        pooled = torch.einsum("rbghj,rghkj->rgbhk", seen, split(p["value_weight"])).flatten(3)  # [R, G, B, D]
        pooled = pooled + p["value_bias"].unsqueeze(2)
        pooled = _classify(pooled, p["output_weight"], p["output_bias"])
        return _classify(pooled, p["classifier_weight"], p["classifier_bias"]).transpose(1, 2)


def _fresh_attention(width: int, classes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """One seed's parameters."""
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


def _classify(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[R or 1, G or 1, B, in] by [R, G, out, in] to [R, G, B, out]."""
    return x @ weight.transpose(2, 3) + bias.unsqueeze(2)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _repeated(parameter: Tensor, points: int) -> nn.Parameter:
    """[R, ...] to [R, points, ...]."""
    return nn.Parameter(parameter.unsqueeze(1).repeat(1, points, *[1] * (parameter.ndim - 1)))


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each head, [R, G], from logits [R, B, G, C] and labels [R, B]."""
    R, B, G, C = logits.shape
    wanted = labels.unsqueeze(2).expand(R, B, G)
    return F.cross_entropy(logits.reshape(-1, C), wanted.reshape(-1), reduction="none").view(R, B, G).mean(1)
