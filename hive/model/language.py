"""The language model: a transformers model whose decoder layers are run one by one over packed text."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from hive.config import LanguageConfig
from hive.model.families import language_family
from hive.model.families.language import Attend, AttentionParts, Rotary
from hive.model.fusion import Injection, PackedText
from hive.profiling import boundary
from hive_kernels import causal_attention, joint_attention, linear_cross_entropy


class LanguageModel(nn.Module):
    """Runs transformers' decoder layers over packed hidden states; their parameters and names stay as they are.

    T packed tokens, D width, Hq and Hkv query and key/value heads of d channels.
    """

    def __init__(self, model: PreTrainedModel, backend: str, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.model = model
        self.backend = backend
        self.checkpoint_activations = checkpoint_activations
        self.family = language_family(model)
        self.parts = self.family.parts(model)
        self.shape = self.family.described(LanguageConfig(), model.config)
        self.width = self.shape.hidden_size
        self.head_dim = self.family.attention_parts(self.parts.layers[0]).head_dim
        self.decoder_layer = self.family.decoder_layer

    def attention_parts(self, depths: Iterable[int]) -> dict[int, AttentionParts]:
        """The self-attention of these layers, by their 0-based index."""
        return {depth: self.family.attention_parts(self.parts.layers[depth]) for depth in depths}

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [T, D] of tokens int64 [T]."""
        return self.parts.embedding(tokens)

    def forward(self, hidden: Tensor, text: PackedText, injection: Injection | None = None) -> Tensor:
        """Final hidden states [T, D] of `hidden` [T, D]: all layers, with what `injection` adds, and the final norm."""
        injection = injection or Injection()
        attend = partial(packed_attention, cu_seqlens=text.cu_seqlens, max_seqlen=text.max_seqlen, backend=self.backend)
        attention = [partial(attend, image=injection.images.get(depth)) for depth in range(len(self.parts.layers))]
        return self.run_layers(hidden, text, injection, attention)

    def run_layers(self, hidden: Tensor, text: PackedText, injection: Injection, attention: Sequence[Attend]) -> Tensor:
        """As `forward`, with the attention of each layer given; it reads what `injection.images` holds."""
        rotary = self.rotary(hidden, text)
        for depth, (layer, attend) in enumerate(zip(self.parts.layers, attention, strict=True)):
            if depth in injection.before_layer:
                hidden = self._run(injection.before_layer[depth], boundary(hidden, "language", "fusion"))
                hidden = boundary(hidden, "fusion", "language")
            hidden = self._run(self.decoder_layer, hidden, layer, rotary, attend)
        return self.parts.norm(hidden)

    def rotary(self, hidden: Tensor, text: PackedText) -> Rotary:
        """Cosines and sines of the tokens' positions, in the dtype of `hidden` [T, D]."""
        cos, sin = self.parts.rotary(hidden, text.positions[None])
        return cos[0, :, None], sin[0, :, None]

    def attention_inputs(self, depth: int, hidden: Tensor, text: PackedText) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated query [T, Hq, d] and key, and value [T, Hkv, d], of a layer's self-attention for its input [T, D]."""
        inputs: list[tuple[Tensor, Tensor, Tensor]] = []

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            inputs.append((query, key, value))
            return query  # of the right shape; the layer's result is not used

        self.family.decoder_layer(hidden, self.parts.layers[depth], self.rotary(hidden, text), attend)
        return inputs[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [T, V] of final hidden states [T, D]."""
        return self.parts.head(hidden)

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Summed next-token cross-entropy of final hidden states [T, D] and targets int64 [T] (paper, equation 1)."""
        return linear_cross_entropy(hidden, self.parts.head.weight, targets, backend=self.backend)

    def _run(self, function: Callable[..., Tensor], hidden: Tensor, *arguments: object) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(function, hidden, *arguments, use_reentrant=False)
        return function(hidden, *arguments)


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seqlens: Tensor,
    max_seqlen: int,
    backend: str,
    image: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The attention of all decoder layers: causal within each text, which may also see its whole image.

    [T, Hq, d] of query [T, Hq, d], key and value [T, Hkv, d]. With `image` (keys, values, each [B, N, Hkv, d]) one
    softmax covers the image's keys and the text's.
    """
    if image is None:
        return causal_attention(query, key, value, cu_seqlens, max_seqlen=max_seqlen, backend=backend)
    image_key, image_value = (item.to(query.dtype) for item in image)
    return joint_attention(
        query,
        key,
        value.to(query.dtype),
        image_key,
        image_value,
        cu_seqlens,
        max_seqlen=max_seqlen,
        backend=backend,
    )
