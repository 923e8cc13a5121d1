"""Fused operations for text that reads images. They take tensors, not models; need torch, and triton on a GPU.

Every operation takes ``backend="auto"``, or the name of one of the backends in :mod:`hive_kernels.backends`.
"""

from hive_kernels import first_use, flops, selfcheck
from hive_kernels.attention.causal import causal_attention
from hive_kernels.attention.cross import cross_attention
from hive_kernels.attention.joint import joint_attention
from hive_kernels.attention.weights import cross_attention_weights
from hive_kernels.backends import resolve
from hive_kernels.gated_residual.api import gated_residual
from hive_kernels.linear_cross_entropy.api import linear_cross_entropy
from hive_kernels.projector.api import residual_projector
from hive_kernels.validation import debug

first_use.check_with(selfcheck.run)  # a backend's first launch on a GPU runs it
flops.register()  # so that torch's FlopCounterMode counts attention on a CPU as well

__all__ = [
    "causal_attention",  # softmax(scale q k^T, each token sees itself and what is before it in its sample) v
    "cross_attention",  # softmax(scale q k^T) v: each text reads the visual tokens of its own sample
    "cross_attention_weights",  # exp(scale q k^T - lse): the attention map of chosen tokens
    "debug",  # debug(True): values of offsets and targets are checked on a GPU too, which synchronises it
    "gated_residual",  # x + tanh(gate) y
    "joint_attention",  # one softmax over the sample's visual tokens and its own text up to each token
    "linear_cross_entropy",  # sum over rows of -log softmax(h w^T)[target], without the full logits
    "residual_projector",  # skip(n) + W2 gelu(W1 n + b1) + b2 with n = LayerNorm(x), all selected layers at once
    "resolve",  # which backend a name means on a device, or a ValueError that says why none
]
