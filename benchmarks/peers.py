"""The peers that are measured: our backends, and what a user would pick otherwise.

A peer gets inputs in the layout that suits it best, prepared outside of the measured time: padded texts for SDPA and
FlexAttention, packed keys for the varlen functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import hive_kernels
from benchmarks.cases import DIM, Case
from hive.errors import first_line
from hive_kernels import varlen
from hive_kernels.backends import BACKENDS, OPERATIONS, reason_unavailable
from hive_kernels.packing import padded_layout


@dataclass
class Run:
    """One set of inputs, ready to run: ``forward`` reads ``leaves`` and returns the outputs."""

    forward: Callable[[], Sequence[Tensor]]
    leaves: Sequence[Tensor]
    cotangents: Sequence[Tensor]
    results: Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]] = lambda outputs, grads: [*outputs, *grads]
    """Makes outputs and gradients in the operation's layout, for the comparison, from those in the peer's."""


Group = Literal["ours", "ready", "compiled", "autotuned"]
"""Our backends; what others have compiled; what torch.compile makes of plain code; the same, tuned for minutes."""
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Peer:
    """One way to compute some of the operations."""

    name: str
    operations: tuple[str, ...]
    build: Callable[[Case, list[Tensor], Tensor], Run]
    """Makes a run from a case, the operation's inputs and the cotangent of its output."""
    absent: str = ""
    """Why the peer can't run on this machine; empty where it can."""
    group: Group = "ready"

    @property
    def ours(self) -> bool:
        """Whether it is one of our backends."""
        return self.group == "ours"


ATTENTION = ("cross_attention", "joint_attention")


def select_peers(case: Case, device: torch.device) -> list[Peer]:
    """The peers that compute the case's operation, absent ones included."""
    return [peer for peer in peers(device) if case.operation in peer.operations]


@cache
def peers(device: torch.device) -> list[Peer]:
    """All peers, absent ones included."""
    measured = (*ATTENTION, "residual_projector", "gated_residual")
    supported = {
        name: tuple(operation for operation in measured if OPERATIONS[operation].served_by(name) == name)
        for name in BACKENDS
    }
    listed = [
        Peer(f"hive {name}", operations, partial(_ours, name), reason_unavailable(name, device) or "", "ours")
        for name, operations in supported.items()
    ]
    recompute = partial(_ours, "triton", recompute=True)
    absent = reason_unavailable("triton", device) or ""
    listed.append(Peer("hive triton, recompute", ("residual_projector",), recompute, absent, "ours"))
    listed.append(Peer("eager", ("residual_projector",), partial(_plain, "")))
    listed.append(Peer("eager", ("gated_residual",), _eager_gate))
    no_gpu = "" if device.type == "cuda" else "needs a CUDA GPU"
    plain = partial(_plain, "default"), partial(_plain, "max-autotune-no-cudagraphs")
    listed.append(Peer("torch.compile", ("residual_projector",), plain[0], no_gpu, "compiled"))
    listed.append(Peer("torch.compile max-autotune", ("residual_projector",), plain[1], no_gpu, "autotuned"))
    for name, backend in (
        ("SDPA flash, padded", SDPBackend.FLASH_ATTENTION),
        ("SDPA cuDNN, padded", SDPBackend.CUDNN_ATTENTION),
        ("SDPA memory-efficient, padded", SDPBackend.EFFICIENT_ATTENTION),
    ):
        listed.append(Peer(name, ("cross_attention",), partial(_sdpa, backend), no_gpu))
    listed.append(Peer("varlen_attn", ("cross_attention",), _varlen, no_gpu))
    listed.append(Peer("FlexAttention, compiled", ("cross_attention",), _flex, no_gpu, "compiled"))
    flash, xformers = _import_error("flash_attn"), _import_error("xformers.ops")
    listed.append(Peer("flash_attn_varlen_func", ("cross_attention",), _flash_attn, no_gpu or flash))
    listed.append(Peer("xformers", ("cross_attention",), _xformers, no_gpu or xformers))
    return listed


def _import_error(package: str) -> str:
    """Why a package can't be imported; empty where it can."""
    try:
        import_module(package)
    except Exception as error:  # a package built for another torch fails in many ways
        return f"{package} can't be imported: {type(error).__name__}: {first_line(error)}"
    return ""


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().clone().requires_grad_() for x in tensors]


def _ours(backend: str, case: Case, inputs: list[Tensor], cotangent: Tensor, recompute: bool = False) -> Run:
    leaves = _leaves(inputs)
    options: dict[str, Any] = {"recompute": True} if recompute else {}
    arguments: list[Any] = list(leaves)
    if case.operation in ATTENTION:
        name = "max_seqlen_q" if case.operation == "cross_attention" else "max_seqlen"
        options[name] = max(case.text_lengths())
        arguments.append(case.offsets(inputs[0].device))
    function = getattr(hive_kernels, case.operation)
    return Run(lambda: [function(*arguments, backend=backend, **options)], leaves, [cotangent])


def _plain_layer(
    x: Tensor, ln_w: Tensor, ln_b: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *skip: Tensor
) -> Tensor:
    """One layer's projector as a user would write it; weights as nn.Linear has them."""
    n = F.layer_norm(x, x.shape[-1:], ln_w, ln_b)
    return (F.linear(n, *skip) if skip else n) + F.linear(F.gelu(F.linear(n, w1, b1)), w2, b2)


def _compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compiles for fixed shapes; beyond torch's default limit of shapes the function would silently run eagerly."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, dynamic=False, **options)


@cache
def _compiled_layer(mode: str) -> Callable[..., Tensor]:
    return _compile(_plain_layer, mode=mode)


def _plain(mode: str, case: Case, inputs: list[Tensor], cotangent: Tensor) -> Run:
    """One call a layer; the layers' outputs aren't copied into one tensor."""
    run = _compiled_layer(mode) if mode else _plain_layer
    layers = [
        _leaves([x[i].t().contiguous() if j and x.dim() == 3 else x[i] for j, x in enumerate(inputs)])
        for i in range(len(inputs[0]))
    ]

    def results(outputs: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
        columns = [torch.stack([*grads[i :: len(inputs)]]) for i in range(len(inputs))]
        return [torch.stack([*outputs]), *(g.mT if i and g.dim() == 3 else g for i, g in enumerate(columns))]

    leaves = [x for layer in layers for x in layer]
    return Run(lambda: [run(*layer) for layer in layers], leaves, list(cotangent), results)


def _eager_gate(case: Case, inputs: list[Tensor], cotangent: Tensor) -> Run:
    leaves = _leaves(inputs)
    return Run(lambda: [leaves[0] + torch.tanh(leaves[2]) * leaves[1]], leaves, [cotangent])


def _padded(case: Case, inputs: list[Tensor], cotangent: Tensor, attention: Callable[..., Tensor]) -> Run:
    """``attention`` on [B, H, L, D] with queries padded to the longest text, whose padding has no gradient."""
    q, k, v = inputs
    layout = padded_layout(case.offsets(q.device), q.shape[0], max(case.text_lengths()))

    def heads_first(x: Tensor) -> Tensor:
        return x.transpose(1, 2)

    leaves = _leaves([heads_first(layout.pad(q)), heads_first(k), heads_first(v)])

    def results(outputs: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
        packed = [layout.unpad(heads_first(x)) for x in (outputs[0], grads[0])]
        return [*packed, *map(heads_first, grads[1:])]

    return Run(lambda: [attention(*leaves)], leaves, [heads_first(layout.pad(cotangent))], results)


def _sdpa(backend: SDPBackend, case: Case, inputs: list[Tensor], cotangent: Tensor) -> Run:
    groups = case.sizes[2] // case.sizes[3]

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if backend == SDPBackend.EFFICIENT_ATTENTION and groups > 1:  # it has no grouped heads
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            return F.scaled_dot_product_attention(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=groups > 1)

    run = _padded(case, inputs, cotangent, attention)
    forward = run.forward

    def chosen() -> Sequence[Tensor]:
        with sdpa_kernel(backend):
            return forward()

    run.forward = chosen
    return run


@cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return _compile(flex_attention)


def _flex(case: Case, inputs: list[Tensor], cotangent: Tensor) -> Run:
    from torch.nn.attention.flex_attention import create_block_mask

    device = inputs[0].device
    lengths = torch.tensor(case.text_lengths(), device=device)
    batch, tokens, heads, key_heads = case.sizes
    mask = create_block_mask(
        lambda b, h, q, k: q < lengths[b], batch, None, int(lengths.max()), tokens, device=str(device)
    )

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _compiled_flex()(q, k, v, block_mask=mask, enable_gqa=heads != key_heads)

    return _padded(case, inputs, cotangent, attention)


def _packed(case: Case, inputs: list[Tensor], cotangent: Tensor, attention: Callable[..., Tensor]) -> Run:
    """``attention`` of q [T, Hq, D] and packed k, v [B N, Hkv, D]."""
    q, k, v = inputs
    leaves = _leaves([q, k.flatten(0, 1), v.flatten(0, 1)])

    def results(outputs: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
        return [outputs[0], grads[0], *(x.view_as(k) for x in grads[1:])]

    return Run(lambda: [attention(*leaves)], leaves, [cotangent], results)


def _key_offsets(case: Case, device: torch.device) -> Tensor:
    batch, tokens = case.sizes[:2]
    return torch.arange(batch + 1, dtype=torch.int32, device=device) * tokens


def _varlen(case: Case, inputs: list[Tensor], cotangent: Tensor) -> Run:
    device, longest = inputs[0].device, max(case.text_lengths())
    cu_q, cu_k = case.offsets(device), _key_offsets(case, device)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return varlen.attention(q, k, v, cu_q, cu_k, longest, case.sizes[1], causal=False, scale=DIM**-0.5)

    return _packed(case, inputs, cotangent, attention)


def _flash_attn(case: Case, inputs: list[Tensor], cotangent: Tensor) -> Run:
    from flash_attn import flash_attn_varlen_func

    device, longest = inputs[0].device, max(case.text_lengths())
    cu_q, cu_k = case.offsets(device), _key_offsets(case, device)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flash_attn_varlen_func(q, k, v, cu_q, cu_k, longest, case.sizes[1])

    return _packed(case, inputs, cotangent, attention)


def _xformers(case: Case, inputs: list[Tensor], cotangent: Tensor) -> Run:
    from xformers.ops import fmha, memory_efficient_attention

    batch, tokens, heads, key_heads = case.sizes
    bias = fmha.attn_bias.BlockDiagonalMask.from_seqlens(case.text_lengths(), [tokens] * batch)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = (key_heads, heads // key_heads)
        k, v = (x[None, :, :, None].expand(1, -1, *groups, DIM) for x in (k, v))
        return memory_efficient_attention(q[None].unflatten(2, groups), k, v, attn_bias=bias)[0].flatten(1, 2)

    return _packed(case, inputs, cotangent, attention)
