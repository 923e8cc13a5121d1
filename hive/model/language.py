"""The language model: a Llama whose decoder layers are run one by one over packed text."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from hive.model.fusion import Injection, PackedText
from hive.profiling import boundary
from hive_kernels import causal_attention, joint_attention, linear_cross_entropy


class LanguageModel(nn.Module):
    """Packed hidden states through transformers' own Llama layers, whose parameters and names stay untouched.

    T packed tokens, D width, Hq and Hkv query and key/value heads of d channels.
    """

    def __init__(self, model: LlamaForCausalLM, backend: str, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.model = model
        self.backend = backend
        self.checkpoint_activations = checkpoint_activations
        self.decoder_layer: Callable[..., Tensor] = decoder_layer

    @property
    def width(self) -> int:
        """D."""
        return self.model.config.hidden_size

    def embed(self, tokens: Tensor) -> Tensor:
        """int64 [T] to [T, D]."""
        return self.model.model.embed_tokens(tokens)

    def forward(self, hidden: Tensor, text: PackedText, injection: Injection | None = None) -> Tensor:
        """`hidden` [T, D] through all layers and the final norm, with what `injection` gives them to read."""
        injection = injection or Injection()
        cos, sin = self.model.model.rotary_emb(hidden, text.positions[None])
        rotary = (cos[0, :, None], sin[0, :, None])  # [T, 1, d]
        for depth, layer in enumerate(self.model.model.layers):
            if depth in injection.before_layer:
                hidden = self._run(injection.before_layer[depth], boundary(hidden, "language", "fusion"))
                hidden = boundary(hidden, "fusion", "language")
            image = injection.images.get(depth)
            hidden = self._run(
                self.decoder_layer, hidden, layer, rotary, text.cu_seqlens, text.max_seqlen, self.backend, image
            )
        return self.model.model.norm(hidden)

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Summed next-token cross-entropy of final hidden states [T, D] and targets int64 [T] (paper, equation 1)."""
        weight = self.model.lm_head.weight
        return linear_cross_entropy(hidden, weight, targets, backend=self.backend)

    def _run(self, function: Callable[..., Tensor], hidden: Tensor, *arguments: object) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(function, hidden, *arguments, use_reentrant=False)
        return function(hidden, *arguments)


def decoder_layer(
    hidden: Tensor,
    layer: LlamaDecoderLayer,
    rotary: tuple[Tensor, Tensor],
    cu_seqlens: Tensor,
    max_seqlen: int,
    backend: str,
    image: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """One Llama decoder layer over packed text, [T, D] to [T, D]: causal attention within each text, then SwiGLU.

    With `image` (keys, values, each [B, N, Hkv, d]) each text also sees its whole image, in the same softmax.
    """
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    query, key, value = (
        project(normed).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = rotate(query, *rotary), rotate(key, *rotary)
    if image is None:
        attended = causal_attention(query, key, value, cu_seqlens, max_seqlen=max_seqlen, backend=backend)
    else:
        image_key, image_value = (item.to(query.dtype) for item in image)
        attended = joint_attention(
            query,
            key,
            value.to(query.dtype),
            image_key,
            image_value,
            cu_seqlens,
            max_seqlen=max_seqlen,
            backend=backend,
        )
    hidden = hidden + attention.o_proj(attended.flatten(-2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of [T, H, d]; `cos`, `sin` [T, 1, d] (Su et al. 2021, in Llama's half-split order)."""
    first, second = heads.chunk(2, dim=-1)
    return (heads * cos + torch.cat([-second, first], dim=-1) * sin).to(heads.dtype)
