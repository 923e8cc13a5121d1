"""Launches the attention kernels, and lists them for compilation without a GPU.

Imported only when a kernel is launched: this is where Triton comes in.
"""

from collections.abc import Iterator
from math import e, log2
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hive_kernels.compile_case import CompileCase
from hive_kernels.cross_attention import tiles
from hive_kernels.cross_attention.tiles import Tile
from hive_kernels.cross_attention.triton_backward import key_gradient_kernel, one_pass_kernel, query_gradient_kernel
from hive_kernels.cross_attention.triton_forward import forward_kernel
from hive_kernels.launch import capability, ready

LOG2_E = log2(e)


class Problem(NamedTuple):
    """The inputs of one attention, last dimensions contiguous; :func:`forward` says which shapes."""

    q: Tensor
    k: Tensor
    v: Tensor
    k_text: Tensor | None
    v_text: Tensor | None
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor | None
    scale: float
    longest: int

    @classmethod
    def of(
        cls, q: Tensor, k: Tensor, v: Tensor, k_text: Tensor | None, v_text: Tensor | None,
        cu_q: Tensor, cu_k: Tensor | None, scale: float, longest: int,
    ) -> "Problem":  # fmt: skip
        """The problem of any tensors: what the kernels can't address is copied."""
        q, k, v = addressable(q), addressable(k), addressable(v)
        if k_text is not None and v_text is not None:
            k_text, v_text = addressable(k_text), addressable(v_text)
        cu_q, cu_k = cu_q.contiguous(), None if cu_k is None else cu_k.contiguous()
        return cls(q, k, v, k_text, v_text, cu_q, cu_k, scale, longest)

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.q.shape[1] // self.k.shape[-2]

    @property
    def batch(self) -> int:
        return self.cu_seqlens_q.shape[0] - 1

    @property
    def keys(self) -> int:
        """Keys of each image, or of all packed ones."""
        return self.k.shape[-3]

    @property
    def rows(self) -> int:
        """No sample has more packed rows."""
        return min(self.longest, self.q.shape[0]) * self.group

    def tile(self, role: str) -> Tile:
        return tiles.lookup(role, capability(self.q.device), self.q.dtype, self.q.shape[2], self.rows)

    def row_grid(self, rows: int) -> tuple[int, int]:
        """Slots that triton_forward.locate finds samples for."""
        return self.q.shape[0] * self.group // rows + self.batch, self.k.shape[-2]

    def key_strides(self) -> tuple[int, ...]:
        """(sample, token, head) of k, then of v."""
        packed = self.k.dim() == 3
        return tuple(s for x in (self.k, self.v) for s in ((0,) if packed else ()) + x.stride()[:-1])

    def text_strides(self) -> tuple[int, ...]:
        """(token, head) of k_text, then of v_text."""
        if self.k_text is None or self.v_text is None:
            return 0, 0, 0, 0
        return self.k_text.stride()[:2] + self.v_text.stride()[:2]

    def sizes(self, tile: Tile) -> dict[str, int]:
        """The constants that all kernels take."""
        dim = self.q.shape[2]
        block = tiles.block_d(dim)
        return {"GROUP": self.group, "HEAD_DIM": dim, "BLOCK_D": block, "BLOCK_M": tile.rows, "BLOCK_N": tile.keys}

    def even(self, tile: Tile) -> bool:
        """Whether no key tile has a masked tail."""
        return self.cu_seqlens_k is None and self.keys % tile.keys == 0


def addressable(x: Tensor) -> Tensor:
    """Heads contiguous, and tokens and heads so close that offsets within a tile fit 32 bits."""
    near = all(stride < 1 << 23 for stride in x.stride()[-3:])
    return x if x.stride(-1) == 1 and near else x.contiguous()


def forward(problem: Problem) -> tuple[Tensor, Tensor]:
    """Attention of q [T, Hq, D] over k, v [B, N, Hkv, D] or packed [Tk, Hkv, D] and, where given, causal text keys.

    Args:
        problem: k_text, v_text are [T, Hkv, D]; ``longest`` bounds the tokens of a sample.

    Returns:
        out [T, Hq, D] in q's dtype, lse [T, Hq], fp32, in base 2.
    """
    q, k, v, k_text, v_text, cu_q, cu_k, scale, _ = problem
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    tile = problem.tile("forward")
    with ready("attention.forward", q.device, q.dtype):
        if q.numel():
            forward_kernel[problem.row_grid(tile.rows)](
                q, k, v, k_text, v_text, out, lse, cu_q, cu_k,
                *q.stride()[:2], *problem.key_strides(), *problem.text_strides(),
                q.shape[0], problem.keys, problem.batch, scale * LOG2_E,
                **problem.sizes(tile), EVEN=problem.even(tile), num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
    return out, lse


def backward(problem: Problem, out: Tensor, lse: Tensor, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv, contiguous. Keys that no row sees get 0."""
    q, k, v, _, _, cu_q, cu_k, scale, _ = problem
    out, lse, dout = out.contiguous(), lse.contiguous(), addressable(dout)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    tile = problem.tile("one_pass")
    if not 0 < problem.rows <= tile.rows or k.numel() == 0:
        delta = query_gradient(problem, out, lse, dout, dq)
        key_gradient(problem, lse, dout, delta, dk, dv)
        return dq, dk, dv
    with ready("attention.backward", q.device, q.dtype):
        one_pass_kernel[(problem.batch, k.shape[-2])](
            q, k, v, out, dout, lse, dq, dk, dv, cu_q, cu_k,
            *q.stride()[:2], *problem.key_strides(), *dout.stride()[:2], q.shape[0], problem.keys, scale * LOG2_E,
            **problem.sizes(tile), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return dq, dk, dv


def joint_backward(problem: Problem, out: Tensor, lse: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
    """dq, dk_text, dv_text, dk, dv, contiguous."""
    q, k, v, k_text, v_text, cu_q, *_ = problem
    out, lse, dout = out.contiguous(), lse.contiguous(), addressable(dout)
    assert k_text is not None and v_text is not None  # noqa: PT018
    gradients = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k_text, v_text, k, v)]
    delta = query_gradient(problem, out, lse, dout, gradients[0])
    key_gradient(problem, lse, dout, delta, gradients[3], gradients[4])
    text = problem._replace(k=k_text, v=v_text, cu_seqlens_k=cu_q)
    key_gradient(text, lse, dout, delta, gradients[1], gradients[2], causal=True)
    return tuple(gradients)


def query_gradient(problem: Problem, out: Tensor, lse: Tensor, dout: Tensor, dq: Tensor) -> Tensor:
    """Fills dq; returns delta [T, Hq] = sum(out * dout), fp32."""
    q, k, v, k_text, v_text, cu_q, cu_k, scale, _ = problem
    delta = torch.empty(lse.shape, dtype=lse.dtype, device=lse.device)
    tile = problem.tile("query_gradient")
    if q.numel():
        with ready("attention.query_gradient", q.device, q.dtype):
            query_gradient_kernel[problem.row_grid(tile.rows)](
                q, k, v, k_text, v_text, out, dout, lse, delta, dq, cu_q, cu_k,
                *q.stride()[:2], *problem.key_strides(), *problem.text_strides(), *dout.stride()[:2],
                q.shape[0], problem.keys, problem.batch, scale * LOG2_E,
                **problem.sizes(tile), EVEN=problem.even(tile), num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
    return delta


def key_gradient(
    problem: Problem, lse: Tensor, dout: Tensor, delta: Tensor, dk: Tensor, dv: Tensor, causal: bool = False
) -> None:
    """Fills dk and dv of the problem's k and v; ``causal`` when they are the text's own."""
    q, k, v, _, _, cu_q, cu_k, scale, _ = problem
    tile = problem.tile("key_gradient")
    slots = -(-problem.keys // tile.keys)
    grid = (problem.batch * slots if cu_k is None else problem.keys // tile.keys + problem.batch, k.shape[-2])
    if k.numel():
        with ready("attention.key_gradient", q.device, q.dtype):
            key_gradient_kernel[grid](
                q, k, v, dout, lse, delta, dk, dv, cu_q, cu_k,
                *q.stride()[:2], *problem.key_strides(), *dout.stride()[:2],
                q.shape[0], problem.keys, problem.batch, slots, scale * LOG2_E,
                **problem.sizes(tile), CAUSAL=causal, num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip


def compile_cases(capability: int) -> Iterator[CompileCase]:
    """Every kernel with every tile that GPUs of ``capability`` (as 86) run, for groups of three heads.

    Heads are as wide as the tile or, once, 80 wide: masked, as 96 would be.
    """
    launches = [
        (role, Tile(*launch), dtype, dim)
        for (role, gpu, bits, padded, _), launch in tiles.TABLE.items()
        for dim in ((80, 128) if padded == 128 else (padded,))
        for dtype in (("fp16", "bf16") if bits == 16 else ("fp32",))
        if gpu == capability and launch != tiles.TWO_KERNELS
    ]
    for role, tile, dtype, dim in dict.fromkeys(launches):
        for images in ("dense", "packed"):
            yield compile_case("cross_attention", role, tile, dtype, dim, images)
            if role in ("forward", "query_gradient"):
                yield compile_case("joint_attention", role, tile, dtype, dim, images)
        if role == "key_gradient":
            yield compile_case("joint_attention", role, tile, dtype, dim, "text")


_KERNELS: dict[str, Any] = {
    "forward": forward_kernel,
    "query_gradient": query_gradient_kernel,
    "key_gradient": key_gradient_kernel,
    "one_pass": one_pass_kernel,
}


def compile_case(operation: str, role: str, tile: Tile, dtype: str, dim: int, keys: str) -> CompileCase:
    """One launch over ``keys``: images of one size that the tile divides ("dense"), of any ("packed"), or "text"."""
    kernel = _KERNELS[role]
    constexprs: dict[str, Any] = {
        "GROUP": 3, "HEAD_DIM": dim, "BLOCK_D": tiles.block_d(dim), "BLOCK_M": tile.rows, "BLOCK_N": tile.keys,
        "EVEN": keys == "dense", "CAUSAL": keys == "text",
    }  # fmt: skip
    if operation == "cross_attention":
        constexprs |= {"k_text": None, "v_text": None}
    if keys == "dense":
        constexprs["cu_seqlens_k"] = None
    constexprs = {name: value for name, value in constexprs.items() if name in kernel.arg_names}
    types = dict.fromkeys(("lse", "delta"), "*fp32") | dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k"), "*i32")
    types |= dict.fromkeys(("tokens", "keys", "batch", "tiles"), "i32") | {"scale": "fp32"}
    signature, attrs = {}, {}
    for i, name in enumerate(kernel.arg_names):
        stride = name.startswith("stride")
        signature[name] = "constexpr" if name in constexprs else types.get(name, "i32" if stride else f"*{dtype}")
        if stride or signature[name].startswith("*"):
            attrs[(i,)] = [["tt.divisibility", 16]]
    return CompileCase(
        name=f"{operation}.{role}.{keys}.{dtype}.d{dim}.{tile.rows}x{tile.keys}w{tile.warps}s{tile.stages}",
        function=kernel,
        signature=signature,
        constexprs=constexprs,
        num_warps=tile.warps,
        num_stages=tile.stages,
        attrs=attrs,
    )
