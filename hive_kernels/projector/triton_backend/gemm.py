"""The projector's three products that are fused with an epilogue or a second product.

``hidden``: h = n w1, and gelu(h + b1) from the same accumulator. ``output``: n w_skip + a w2 + bias in one accumulator.
``features``: grad_out w_skip^T + grad_h w1^T, the gradient of n, in one accumulator too. Each saves a pass over M x D
values that cuBLAS can't avoid over several layers. They run only where the tile table has an entry.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hive_kernels.compile_case import CompileCase, aligned
from hive_kernels.projector.measured_tiles import GEMM
from hive_kernels.projector.tiles import Gemm, gemm_candidates
from hive_kernels.projector.triton_backend.elementwise import _gelu

GROUP = 8  # row tiles that run together, so that their weights stay in the L2 cache


@triton.jit
def _product(a, b, total, row, column, rows, columns, inner, TRANSPOSED: tl.constexpr, INNER: tl.constexpr):
    """total + a [rows, inner] b, with b [inner, columns] or, transposed, [columns, inner]."""
    step = tl.arange(0, INNER)
    if TRANSPOSED:
        b += column[None, :] * inner + step[:, None]
    else:
        b += step[:, None] * columns + column[None, :]
    a += row[:, None] * inner + step[None, :]
    for start in range(0, inner, INNER):
        exists = step < inner - start
        left = tl.load(a, (row < rows)[:, None] & exists[None, :], 0.0)
        right = tl.load(b, exists[:, None] & (column < columns)[None, :], 0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
        a += INNER
        b += INNER if TRANSPOSED else INNER * columns
    return total


@triton.jit
def gemm_kernel(
    a1, b1, a2, b2, bias, out, activation, rows, columns, inner1, inner2,
    SECOND: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr, TRANSPOSED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out = a1 b1 (+ a2 b2) (+ bias), or, with GELU, out = a1 b1 and activation = gelu(out + bias)."""
    layer = tl.program_id(1).to(tl.int64)
    tile = tl.program_id(0)
    row_tiles, column_tiles = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    group = tile // (GROUP * column_tiles) * GROUP
    size = min(row_tiles - group, GROUP)
    within = tile % (GROUP * column_tiles)
    first = (group + within % size).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)  # from here on, first is row 0
    column = (within // size) * COLUMNS + tl.arange(0, COLUMNS)
    start = layer * rows + first
    rows = (rows - first).to(tl.int32)

    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    b1 += layer * inner1 * columns
    total = _product(a1 + start * inner1, b1, total, row, column, rows, columns, inner1, TRANSPOSED, INNER)
    if SECOND:
        b2 += layer * inner2 * columns
        total = _product(a2 + start * inner2, b2, total, row, column, rows, columns, inner2, TRANSPOSED, INNER)

    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = row[:, None] * columns + column[None, :]
    if BIAS or GELU:
        offset = tl.load(bias + layer * columns + column, column < columns, 0.0).to(tl.float32)[None, :]
    if BIAS:
        total += offset
    rounded = total.to(out.dtype.element_ty)
    tl.store(out + start * columns + place, rounded, inside)
    if GELU:  # of the rounded value, which the backward pass reads
        tl.store(activation + start * columns + place, _gelu(rounded.to(tl.float32) + offset), inside)


def hidden(n: Tensor, w1: Tensor, b1: Tensor, tile: Gemm) -> tuple[Tensor, Tensor]:
    """n [S, M, Dv], w1 [S, Dv, D], b1 [S, D] -> h = n w1 and gelu(h + b1), [S, M, D] both."""
    h = torch.empty(*n.shape[:2], w1.shape[2], dtype=n.dtype, device=n.device)
    activation = torch.empty_like(h)
    _launch(tile, n, w1, None, None, b1, h, activation, transposed=False)
    return h, activation


def output(n: Tensor, w_skip: Tensor, a: Tensor, w2: Tensor, bias: Tensor, tile: Gemm) -> Tensor:
    """n w_skip + a w2 + bias, [S, M, D] in a's dtype."""
    out = torch.empty_like(a)
    _launch(tile, n, w_skip, a, w2, bias, out, None, transposed=False)
    return out


def features(grad_out: Tensor, w_skip: Tensor, grad_h: Tensor, w1: Tensor, out: Tensor, tile: Gemm) -> None:
    """Fills out [S, M, Dv] = grad_out w_skip^T + grad_h w1^T."""
    _launch(tile, grad_out, w_skip, grad_h, w1, None, out, None, transposed=True)


def _launch(
    tile: Gemm, a1: Tensor, b1: Tensor, a2: Tensor | None, b2: Tensor | None, bias: Tensor | None, out: Tensor,
    activation: Tensor | None, transposed: bool,
) -> None:  # fmt: skip
    layers, rows, columns = out.shape
    grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns), layers)
    gemm_kernel[grid](
        a1, b1, a2, b2, bias, out, activation, rows, columns, a1.shape[2], 0 if a2 is None else a2.shape[2],
        SECOND=a2 is not None, BIAS=bias is not None and activation is None, GELU=activation is not None,
        TRANSPOSED=transposed, ROWS=tile.rows, COLUMNS=tile.columns, INNER=tile.inner, GROUP=GROUP,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip


def compile_cases(capability: int) -> list[CompileCase]:
    """Each product at every tile that the tuner may choose for GPUs of ``capability``, and at those in the table."""
    products: dict[str, dict[str, bool]] = {
        "hidden": {"SECOND": False, "BIAS": False, "GELU": True, "TRANSPOSED": False},
        "output": {"SECOND": True, "BIAS": True, "GELU": False, "TRANSPOSED": False},
        "features": {"SECOND": True, "BIAS": False, "GELU": False, "TRANSPOSED": True},
    }
    cases = []
    for product, flags in products.items():
        chosen = {Gemm(*tile) for key, tile in GEMM.items() if key[:2] == (product, capability)}
        for tile in sorted({*gemm_candidates(product, capability), *chosen}):
            constexprs = flags | {"ROWS": tile.rows, "COLUMNS": tile.columns, "INNER": tile.inner, "GROUP": GROUP}
            sizes = ("rows", "columns", "inner1", "inner2")
            kinds = dict.fromkeys(constexprs, "constexpr") | dict.fromkeys(sizes, "i32")
            signature = {name: kinds.get(name, "*bf16") for name in gemm_kernel.arg_names}
            text = f"{tile.rows}x{tile.columns}x{tile.inner}w{tile.num_warps}s{tile.num_stages}"
            cases.append(
                CompileCase(
                    f"projector.gemm_{product}.bf16.{text}",
                    gemm_kernel,
                    signature,
                    constexprs,
                    tile.num_warps,
                    tile.num_stages,
                    aligned(signature, "rows"),
                )
            )
    return cases
