"""Hierarchical cross-attention: text at an aligned depth reads that depth's projected visual features (section 3.3)."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from hive.model.families.language import AttentionParts
from hive.profiling import boundary
from hive_kernels import cross_attention, gated_residual


class PackedText(Protocol):
    """The layout of the packed texts of B samples, T tokens in all, as fusion and the language model read it."""

    @property
    def cu_seqlens(self) -> Tensor:
        """int32 [B + 1]: where each text starts, and T."""

    @property
    def positions(self) -> Tensor:
        """int64 [T]: each token's position in its text."""

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest text; a host integer, so that no kernel has to synchronise the device."""


class CrossAttentionBlock(nn.Module):
    """x + tanh(gate) * W_o softmax(q k^T / sqrt(d)) v with q = W_q norm(x); without a gate, x + W_o softmax(...) v.

    Norm, query and output weights start as copies of the host decoder layer's self-attention.
    """

    def __init__(self, host: AttentionParts, gate: bool, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.head_dim = host.head_dim
        self.norm = copy.deepcopy(host.norm)
        self.query = copy.deepcopy(host.query)
        self.output = copy.deepcopy(host.output)
        self.gate = nn.Parameter(torch.zeros(())) if gate else None

    def queries(self, hidden: Tensor) -> Tensor:
        """The text's queries [T, Hq, d] of hidden states [T, D]."""
        return self.query(self.norm(hidden)).unflatten(-1, (-1, self.head_dim))

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor, text: PackedText) -> Tensor:
        """The changed hidden states [T, D] of `hidden` [T, D] and the images' `key`, `value` [B, N, Hkv, d]."""
        query = self.queries(hidden)
        attended = cross_attention(
            query,
            key.to(query.dtype),
            value.to(query.dtype),
            text.cu_seqlens,
            max_seqlen_q=text.max_seqlen,
            backend=self.backend,
        )
        update = self.output(attended.flatten(-2))
        if self.gate is None:
            return hidden + update
        return gated_residual(hidden, update.to(hidden.dtype), self.gate, backend=self.backend)


@dataclass(frozen=True)
class Injection:
    """What is added to the decoder layers for the images, by the layer's 0-based index."""

    before_layer: Mapping[int, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Functions of a layer's input, [T, D] to [T, D], that run before the layer."""
    images: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Keys and values [B, N, Hkv, d] that a layer's self-attention reads together with the text's."""


class JointFusion(nn.Module):
    """The released variant: the host layer's self-attention reads the image's keys and values in the same softmax.

    The image's key and value projections start as copies of the host's; the query and output projections are the
    host's. Image keys are not rotated. Keys and values depend on the image alone, so one batched GEMM computes them for
    all S depths before the text is read.
    """

    def __init__(self, hosts: Mapping[int, AttentionParts]) -> None:
        """Copies the key and value projections of `hosts`, the self-attention of layers by index."""
        super().__init__()
        self.depths = tuple(hosts)
        self.head_dim = hosts[self.depths[0]].head_dim
        weights = [torch.cat([host.key.weight, host.value.weight]).T for host in hosts.values()]
        self.key_value = nn.Parameter(torch.stack(weights).detach().clone())  # [S, D, 2 * Hkv * d]
        self.key_value_bias = None
        if all(host.key.bias is not None for host in hosts.values()):
            biases = [torch.cat([host.key.bias, host.value.bias])[None] for host in hosts.values()]
            self.key_value_bias = nn.Parameter(torch.stack(biases).detach().clone())  # [S, 1, 2 * Hkv * d]

    def keys_values(self, features: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """(key, value) by depth, each [B, N, Hkv, d], of projected features [S, B, N, D]."""
        selected, samples, patches, _ = features.shape
        rows, bias = features.flatten(1, 2), self.key_value_bias
        projected = torch.bmm(rows, self.key_value) if bias is None else torch.baddbmm(bias, rows, self.key_value)
        stacked = boundary(projected, "projector", "language")
        split = stacked.view(selected, samples, patches, 2, -1, self.head_dim)
        # Unbound, not indexed: the backward pass then writes each gradient once instead of adding up zero-filled ones.
        pairs = [(key, value) for key, value in (layer.unbind(2) for layer in split.unbind(0))]
        return dict(zip(self.depths, pairs, strict=True))

    def forward(self, features: Tensor, text: PackedText) -> Injection:
        """What is added to the decoder layers for projected features [S, B, N, D]."""
        return Injection(images=self.keys_values(features))


class HierarchicalFusion(JointFusion):
    """The paper's variant: a separate cross-attention block in front of each aligned decoder layer (section 3.3)."""

    def __init__(self, hosts: Mapping[int, AttentionParts], gate: bool, backend: str) -> None:
        super().__init__(hosts)
        self.blocks = nn.ModuleList(CrossAttentionBlock(host, gate, backend) for host in hosts.values())

    def forward(self, features: Tensor, text: PackedText) -> Injection:
        """What is added to the decoder layers for projected features [S, B, N, D]."""
        keys_values = self.keys_values(features)
        return Injection(
            before_layer={
                depth: partial(block, key=keys_values[depth][0], value=keys_values[depth][1], text=text)
                for depth, block in zip(self.depths, self.blocks, strict=True)
            }
        )
