"""A frozen tower rebuilt for speed; stages 1 and 2 run it instead of transformers' layers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hive.config import FrozenPrecision
from hive.model.eight_bit import check_eight_bit, quantize
from hive.model.families.tower import EncoderLayerParts
from hive.model.vision import VisionTower
from hive_kernels.validation import without_autocast


class FrozenTower(nn.Module):
    """Computes a `VisionTower`'s selected hidden states from copies of its weights in the compute dtype, no gradients.

    Rounds as autocast does: products in the compute dtype, LayerNorms and the residual stream in fp32. The copies don't
    follow later changes of the tower's weights, so each stage builds a new `FrozenTower` and drops it at its end. No
    module that is trained, saved or exported contains one.
    """

    def __init__(
        self, tower: VisionTower, dtype: torch.dtype, precision: FrozenPrecision = "autocast", *, compiled: bool = False
    ) -> None:
        """Copies the weights of `tower`, in `dtype` or rounded to an 8-bit `precision`.

        `dtype` is that of the products; with an 8-bit `precision`, of their results. `compiled` says whether the layers
        run under torch.compile. Raises `UserError` if the 8-bit precision can't run on the tower's device.
        """
        super().__init__()
        if precision != "autocast":
            check_eight_bit(precision, tower, compiled)
        self.selected, self.patches, self.class_tokens = tower.selected, tower.patches, tower.class_tokens
        self.normalise = tower.normalise
        self.embeddings, self.first_norm = tower.parts.embeddings, tower.parts.first_norm
        projection = tower.parts.patch_projection
        patches = self.embeddings.get_submodule(projection).named_parameters(projection)
        self.patch_projection = {name: parameter.detach().to(dtype) for name, parameter in patches}
        self.layers = nn.ModuleList(FrozenLayer(tower.family.layer_parts(layer), dtype) for layer in tower.read_layers)
        if precision != "autocast":
            quantize(self.layers, precision)
        if compiled:
            for layer in self.layers:
                layer.compile()

    # no_grad, not inference_mode: the projector saves its input for backward, which an inference tensor refuses.
    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """The selected hidden states of the patch tokens, fp32 [S, B, N, Dv], of uint8 pixels [B, 3, H, W]."""
        with without_autocast(pixels.device):
            hidden = self.first_norm(self.embed(self.normalise(pixels)))  # [B, class token + N, Dv]
            # Each state is copied into its place at once: stacking them at the end would hold all of them twice.
            features = hidden.new_empty(len(self.selected), len(pixels), self.patches, hidden.shape[-1])
            places = dict(zip(self.selected, features, strict=True))
            for index, layer in enumerate([nn.Identity(), *self.layers]):
                hidden = layer(hidden)
                if index in places:
                    places[index].copy_(hidden[:, self.class_tokens :])
        return features

    def embed(self, images: Tensor) -> Tensor:
        """Token and position embeddings, fp32 [B, class token + N, Dv], of normalised images [B, 3, H, W]."""
        return functional_call(self.embeddings, self.patch_projection, images)


class FrozenLayer(nn.Module):
    """An encoder layer with one product for query, key and value; its norms and activation are the tower's."""

    def __init__(self, layer: EncoderLayerParts, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.heads = dtype, layer.heads
        self.norm1, self.norm2, self.activation = layer.norm1, layer.norm2, layer.activation
        self.qkv = _concatenate([layer.query, layer.key, layer.value], dtype)
        self.out = _concatenate([layer.output], dtype)
        self.fc1 = _concatenate([layer.fc1], dtype)
        self.fc2 = _concatenate([layer.fc2], dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        """The layer's output, of the shape and dtype of its input, fp32 [B, class token + N, Dv]."""
        heads = self.qkv(self.norm1(hidden).to(self.dtype)).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # views, [B, H, N, d]
        attended = F.scaled_dot_product_attention(query, key, value)
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        return hidden + self.fc2(self.activation(self.fc1(self.norm2(hidden).to(self.dtype))))


def _concatenate(sources: Sequence[nn.Linear], dtype: torch.dtype) -> nn.Linear:
    """One Linear whose outputs are those of all sources, in their order."""
    first = sources[0]
    joined = nn.Linear(first.in_features, sum(source.out_features for source in sources), device="meta")
    for name in ("weight", "bias"):
        parts = [getattr(source, name).detach() for source in sources]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        setattr(joined, name, nn.Parameter(whole.to(dtype), requires_grad=False))
    return joined


def frozen_effect(
    tower: VisionTower, pixels: Tensor, precisions: Sequence[FrozenPrecision], dtype: torch.dtype = torch.bfloat16
) -> dict[FrozenPrecision, list[float]]:
    """By precision, |features - exact| / |exact| of each selected state; `exact` are the states of the fp32 tower.

    pixels uint8 [B, 3, H, W]; norms are over B, N and Dv. Raises `UserError` for a precision that can't run here.
    """
    with torch.no_grad(), without_autocast(pixels.device):
        exact = tower(pixels)
    effect = {}
    for precision in precisions:
        features = FrozenTower(tower, dtype, precision, compiled=pixels.is_cuda)(pixels)
        effect[precision] = feature_errors(features, exact).tolist()
    return effect


def feature_errors(features: Tensor, exact: Tensor) -> Tensor:
    """|features - exact| / |exact| of each selected state, [S] of [S, B, N, Dv]."""
    return (features - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
