"""Exact matrix-multiplication FLOPs of a step, in closed form, by part, forward and backward.

A multiply-add is two FLOPs; norms, activations and softmax are left out, as is custom. A GEMM costs as much again in
the backward pass for each of its two gradients that is needed: a frozen part has no weight gradient, and nothing below
the first trained parameter has an input gradient. Causal attention is counted over the keys that a query may see.
Attention's backward pass is 2.5 times its forward one, because it computes the scores again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hive.config import LanguageConfig, TowerConfig
from hive.cost.methods import Subject
from hive.cost.usual import UsualLlava
from hive.model.build import Model
from hive.model.fusion import HierarchicalFusion
from hive.model.hive import HiveModel


@dataclass(frozen=True)
class Cost:
    """FLOPs of a part of the model."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward + other.forward, self.backward + other.backward)


def gemm(rows: float, inputs: int, outputs: int, *, input_grad: bool, weight_grad: bool) -> Cost:
    """Cost of [rows, inputs] @ [inputs, outputs]."""
    forward = 2.0 * rows * inputs * outputs
    return Cost(forward, forward * (input_grad + weight_grad))


def attention(scores: float, heads: int, head_dim: int, *, grad: bool) -> Cost:
    """Cost of attention's two products over `scores` query-key pairs per head."""
    forward = 4.0 * scores * heads * head_dim
    return Cost(forward, 2.5 * forward * grad)


def step_flops(model: Subject, trained: frozenset[str], samples: int, text_lengths: Sequence[int]) -> dict[str, Cost]:
    """Cost by part of a forward and backward pass over `samples` images and texts of these lengths in tokens.

    `trained` names the parts of `model.parts()` that have gradients.
    """
    if isinstance(model, UsualLlava):
        return _usual_parts(model, trained, samples, text_lengths)
    if isinstance(model, HiveModel):
        costs = _hive_parts(model, trained, samples, text_lengths)
    else:
        costs = _self_attention_parts(model, trained, samples, text_lengths)
    return {"tower": tower_flops(model, "tower" in trained, samples), **costs}


def tower_flops(model: Model, trained: bool, samples: int) -> Cost:
    """Cost of the tower over `samples` images."""
    tower = model.tower
    patch, layer = _tower_pieces(tower.shape, samples, tower.patches + tower.class_tokens, trained)
    return sum([layer] * len(tower.read_layers), patch)


def _tower_pieces(shape: TowerConfig, samples: int, tokens: int, trained: bool) -> tuple[Cost, Cost]:
    """Costs of the patch embedding and of one encoder layer over `tokens` per image."""
    width, patches = shape.hidden_size, (shape.image_size // shape.patch_size) ** 2
    patch = gemm(samples * patches, 3 * shape.patch_size**2, width, input_grad=False, weight_grad=trained)
    rows = samples * tokens
    grads = {"input_grad": trained, "weight_grad": trained}
    layer = gemm(rows, width, 4 * width, **grads)
    layer += gemm(rows, width, 2 * shape.mlp_size, **grads)
    layer += attention(samples * tokens**2, shape.heads, width // shape.heads, grad=trained)
    return patch, layer


def _hive_parts(model: HiveModel, trained: frozenset[str], samples: int, lengths: Sequence[int]) -> dict[str, Cost]:
    projector, fusion = model.projector, model.fusion
    vision_width, width = model.tower.width, model.language.width
    rows = samples * model.tower.patches * len(fusion.depths)
    trains = "projector" in trained
    # LayerNorm's weights are folded into the maps after it, so only a trained tower needs an input gradient.
    first = gemm(rows, vision_width, width, input_grad="tower" in trained, weight_grad=trains)
    project = first + gemm(rows, width, width, input_grad=trains, weight_grad=trains)
    if projector.skip_weight is not None:
        project += first

    heads, head_dim = model.language.shape.heads, model.language.head_dim
    text, depths = sum(lengths), len(fusion.depths)
    weights = "fusion" in trained
    fuse = gemm(rows, width, fusion.key_value.shape[-1], input_grad=trains, weight_grad=weights)
    blocks = depths if isinstance(fusion, HierarchicalFusion) else 0
    for index in range(blocks):
        # With frozen blocks the first query's input depends on no trained parameter.
        query_input = index > 0 or bool(trained & {"fusion", "language"})
        fuse += gemm(text, width, heads * head_dim, input_grad=query_input, weight_grad=weights)
        fuse += gemm(text, heads * head_dim, width, input_grad=True, weight_grad=weights)
    fuse += attention(text * model.tower.patches * depths, heads, head_dim, grad=True)
    return {
        "projector": project,
        "fusion": fuse,
        **_language(model, lengths, text, "language" in trained, model.fusion.depths[0]),
    }


def _self_attention_parts(
    model: Model, trained: frozenset[str], samples: int, lengths: Sequence[int]
) -> dict[str, Cost]:
    sequences = [model.tower.patches + length for length in lengths]
    return sequence_flops(model, trained, samples, sequences, sum(lengths))


def sequence_flops(
    model: Model, trained: frozenset[str], images: int, sequences: Sequence[int], predicted: int
) -> dict[str, Cost]:
    """Cost by part of projector and language model over sequences of these lengths, which include `images` images.

    The head runs over `predicted` rows.
    """
    width, trains = model.language.width, "projector" in trained
    rows = images * model.tower.patches
    project = gemm(rows, model.tower.width, width, input_grad="tower" in trained, weight_grad=trains)
    project += gemm(rows, width, width, input_grad=True, weight_grad=trains)
    return {"projector": project, **_language(model, sequences, predicted, "language" in trained, 0)}


def _usual_parts(model: UsualLlava, trained: frozenset[str], samples: int, lengths: Sequence[int]) -> dict[str, Cost]:
    """Costs by part. Texts are padded to the longest; where any is, attention computes all scores and masks half."""
    vision, text = model.vision, model.text
    tokens = model.patches + model.family.class_tokens
    patch, layer = _tower_pieces(vision, samples, tokens, "tower" in trained)
    # The last layer is computed but not used, and so are a pooling head's keys and values of every token.
    tower = sum([layer] * (vision.layers - 1), patch) + Cost(layer.forward)
    if model.family.pools_by_attention:
        tower += Cost(4.0 * samples * tokens * vision.hidden_size**2)
    trains, width = "projector" in trained, text.hidden_size
    rows = samples * model.patches
    project = gemm(rows, vision.hidden_size, width, input_grad="tower" in trained, weight_grad=trains)
    project += gemm(rows, width, width, input_grad=True, weight_grad=trains)
    length = 1 + model.patches + max(lengths)
    padded = len(set(lengths)) > 1
    scores = samples * (length**2 if padded else length * (length + 1) / 2)
    rows = samples * length
    language = _decoder(text, model.head_dim, rows, scores, rows, "language" in trained, 0)
    return {"tower": tower, "projector": project, **language}


def _language(
    model: Model, sequences: Sequence[int], predicted: int, trained: bool, first_injected: int
) -> dict[str, Cost]:
    """Costs of the decoder over packed sequences of these lengths and of the head over `predicted` rows."""
    scores = sum(length * (length + 1) / 2 for length in sequences)
    language = model.language
    return _decoder(language.shape, language.head_dim, sum(sequences), scores, predicted, trained, first_injected)


def _decoder(
    shape: LanguageConfig,
    head_dim: int,
    rows: int,
    scores: float,
    predicted: int,
    trained: bool,
    first_injected: int,
) -> dict[str, Cost]:
    """Costs of the decoder layers over `rows` tokens and `scores` query-key pairs per head, and of the head."""
    width = shape.hidden_size
    layers = Cost()
    for depth in range(shape.layers):
        grad = trained or depth >= first_injected
        layers += gemm(rows, width, 2 * (shape.heads + shape.kv_heads) * head_dim, input_grad=grad, weight_grad=trained)
        layers += gemm(rows, width, 3 * shape.mlp_size, input_grad=grad, weight_grad=trained)
        layers += attention(scores, shape.heads, head_dim, grad=grad)
    head = gemm(predicted, width, shape.vocab_size, input_grad=True, weight_grad=trained)
    return {"language": layers, "head": head}


def text_lengths(cu_seqlens: Sequence[int]) -> list[int]:
    """Tokens of each packed text."""
    return [end - start for start, end in pairwise(cu_seqlens)]
