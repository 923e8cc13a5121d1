"""The kernel that computes attention maps of chosen tokens, its launch, and its compile cases."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from hive_kernels.attention.tiles import block_d
from hive_kernels.attention.triton_backend.addressing import key_base, load, segment
from hive_kernels.attention.triton_backend.problem import LOG2_E, addressable
from hive_kernels.compile_case import CompileCase
from hive_kernels.launch import ready

WARPS, STAGES = 4, 2  # the same on every GPU: maps are of a few tokens, for analysis
TILE = 2048  # elements of a tile of keys: larger ones spill if strides are odd


@triton.jit(do_not_specialize=["total", "batch", "keys", "width"])
def weights_kernel(
    q, k, lse, tokens, samples, weights, cu_seqlens_k,
    stride_qt, stride_qh, stride_kb, stride_kn, stride_kh, total, batch, keys, width, heads, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, MEAN: tl.constexpr,
):  # fmt: skip
    """exp2(q k - lse) of one chosen token over one tile of keys, all heads or their mean. Grid (tokens, key tiles).

    heads: key heads. Tokens and samples are clamped, as offsets are.
    """
    row = tl.program_id(0).to(tl.int64)
    token = tl.minimum(tl.maximum(tl.load(tokens + row), 0), total - 1)
    sample = tl.minimum(tl.maximum(tl.load(samples + row), 0), batch - 1)
    begin, length = segment(sample, cu_seqlens_k, keys)
    d, nearby = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    first = tl.program_id(1) * BLOCK_N
    n = first + nearby
    mean = tl.zeros([BLOCK_N], tl.float32)
    for head in range(heads):
        base = key_base(k, sample, begin + first, head, stride_kb, stride_kn, stride_kh)
        key_tile = load(base, nearby * stride_kn, n < length, True, HEAD_DIM, BLOCK_D).to(tl.float32)
        for member in tl.static_range(GROUP):
            query = head * GROUP + member
            vector = tl.load(q + token * stride_qt + query * stride_qh + d, mask=d < HEAD_DIM, other=0.0)
            scores = tl.sum(key_tile * vector.to(tl.float32)[None, :], 1) * scale
            log_sum = tl.load(lse + token * heads * GROUP + query) * 1.4426950408889634
            result = tl.where(n < length, tl.exp2(scores - log_sum), 0.0)
            if MEAN:
                mean += result
            else:
                tl.store(weights + (row * heads * GROUP + query) * width + n, result, mask=n < width)
    if MEAN:
        tl.store(weights + row * width + n, mean / (heads * GROUP), mask=n < width)


def block_n(head_dim: int) -> int:
    """Keys of a tile."""
    return TILE // block_d(head_dim)


def weights(
    q: Tensor, k: Tensor, lse: Tensor, tokens: Tensor, samples: Tensor, cu_seqlens_k: Tensor | None, scale: float,
    width: int, head_mean: bool,
) -> Tensor:  # fmt: skip
    """Maps fp32 [R, Hq, width] or [R, width]; q [T, Hq, D], k as cross_attention's, lse [T, Hq] natural."""
    q, k = addressable(q), addressable(k)
    cu_seqlens_k = None if cu_seqlens_k is None else cu_seqlens_k.contiguous()
    rows, key_heads, dim = tokens.shape[0], k.shape[-2], q.shape[2]
    shape = (rows, width) if head_mean else (rows, q.shape[1], width)
    out = torch.empty(shape, dtype=torch.float32, device=q.device)
    strides = k.stride()[:-1] if k.dim() == 4 else (0, *k.stride()[:-1])
    batch = k.shape[0] if cu_seqlens_k is None else cu_seqlens_k.shape[0] - 1
    if out.numel():
        with ready("cross_attention_weights", q.device, q.dtype):
            weights_kernel[rows, triton.cdiv(width, block_n(dim))](
                q, k, lse.contiguous(), tokens.contiguous(), samples, out, cu_seqlens_k,
                *q.stride()[:2], *strides, q.shape[0], batch, k.shape[-3], width, key_heads, scale * LOG2_E,
                GROUP=q.shape[1] // key_heads, HEAD_DIM=dim, BLOCK_D=block_d(dim), BLOCK_N=block_n(dim), MEAN=head_mean,
                num_warps=WARPS, num_stages=STAGES,
            )  # fmt: skip
    return out


def compile_cases() -> Iterator[CompileCase]:
    """Every launch; they are the same for every GPU."""
    pointers = {"lse": "*fp32", "weights": "*fp32", "tokens": "*i64", "samples": "*i64", "cu_seqlens_k": "*i32"}
    for dtype in ("fp16", "bf16", "fp32"):
        for dim in (32, 64, 80, 128):
            for mean in (False, True):
                constexprs = {
                    "GROUP": 3, "HEAD_DIM": dim, "BLOCK_D": block_d(dim), "BLOCK_N": block_n(dim), "MEAN": mean,
                }  # fmt: skip
                types = pointers | dict.fromkeys(("q", "k"), f"*{dtype}") | dict.fromkeys(constexprs, "constexpr")
                signature = {name: types.get(name, "i32") for name in weights_kernel.arg_names} | {"scale": "fp32"}
                yield CompileCase(
                    name=f"cross_attention.weights.{'mean' if mean else 'heads'}.{dtype}.d{dim}",
                    function=weights_kernel, signature=signature, constexprs=constexprs, num_warps=WARPS,
                    num_stages=STAGES,
                )  # fmt: skip
