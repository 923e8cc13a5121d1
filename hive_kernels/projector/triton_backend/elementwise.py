"""The projector's elementwise kernels: LayerNorm and GELU, forward and backward, all layers in one launch.

Arithmetic is fp32. Sums over rows, for the gradients of biases and of LayerNorm's weights, are written as one partial
sum per program and added afterwards in a fixed order, so results don't depend on scheduling.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hive_kernels.compile_case import CompileCase, aligned
from hive_kernels.launch import capability
from hive_kernels.projector.tiles import KERNELS, Tile, elementwise
from hive_kernels.validation import invalid

WIDEST = 8192  # a LayerNorm's program has a whole row in registers


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _gelu_slope(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit
def _normalise(x, inside, width, eps):
    """x [ROWS, COLUMNS] -> its rows with mean 0 and variance 1, and 1 / standard deviation [ROWS, 1]."""
    centred = tl.where(inside, x - (tl.sum(x, 1) / width)[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)[:, None]
    return centred * rstd, rstd


# A program's first element has an int64 address, the others int32 offsets from it, which need half the registers.
@triton.jit
def layer_norm_kernel(
    x, weight, bias, offset, n, skip, rows, width, stride_layer, stride_row, eps,
    IDENTITY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """n = LayerNorm(x) and, where the skip is the identity, skip = n + offset, which the second GEMM adds to."""
    layer = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows - first) & (column < width)
    x += layer * stride_layer + first * stride_row
    z, _ = _normalise(tl.load(x + row * stride_row + column, inside, 0.0).to(tl.float32), inside, width, eps)
    parameter = layer * width
    w = tl.load(weight + parameter + column, column < width, 0.0).to(tl.float32)
    b = tl.load(bias + parameter + column, column < width, 0.0).to(tl.float32)
    z = z * w + b
    start = (layer * rows + first) * width
    tl.store(n + start + row * width + column, z, inside)
    if IDENTITY:
        z += tl.load(offset + parameter + column, column < width, 0.0).to(tl.float32)
        tl.store(skip + start + row * width + column, z, inside)


@triton.jit
def layer_norm_backward_kernel(
    x, grad_n, grad_skip, weight, grad_x, partials, rows, width, stride_layer, stride_row, eps, chunk,
    IDENTITY: tl.constexpr, NEED_X: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """grad_x, and the sums over ``chunk`` rows for weight and bias. An identity skip's gradient is added, in fp32."""
    layer = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * chunk
    column = tl.arange(0, COLUMNS)[None, :]
    w = tl.load(weight + layer * width + column, column < width, 0.0).to(tl.float32)
    x += layer * stride_layer + first * stride_row
    start = (layer * rows + first) * width
    grad_n += start
    if IDENTITY:
        grad_skip += start
    if NEED_X:
        grad_x += start
    sum_w = tl.zeros([COLUMNS], tl.float32)
    sum_b = tl.zeros([COLUMNS], tl.float32)
    for step in range(0, chunk, ROWS):
        row = step + tl.arange(0, ROWS)[:, None]
        inside = (row < rows - first) & (column < width)
        values = tl.load(x + row * stride_row + column, inside, 0.0).to(tl.float32)
        z, rstd = _normalise(values, inside, width, eps)
        place = row * width + column
        grad = tl.load(grad_n + place, inside, 0.0).to(tl.float32)
        if IDENTITY:
            grad += tl.load(grad_skip + place, inside, 0.0).to(tl.float32)
        sum_w += tl.sum(grad * z, 0)
        sum_b += tl.sum(grad, 0)
        if NEED_X:
            grad *= w
            along = (tl.sum(grad * z, 1) / width)[:, None]
            mean = (tl.sum(grad, 1) / width)[:, None]
            tl.store(grad_x + place, (grad - mean - z * along) * rstd, inside)
    flat = tl.arange(0, COLUMNS)
    partials += (layer * tl.num_programs(0) + tl.program_id(0)) * 2 * width
    tl.store(partials + flat, sum_w, flat < width)
    tl.store(partials + width + flat, sum_b, flat < width)


@triton.jit
def gelu_kernel(h, bias, out, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = gelu(h + bias)."""
    layer = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)[:, None]
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    inside = (row < rows - first) & (column < width)
    b = tl.load(bias + layer * width + column, column < width, 0.0).to(tl.float32)
    start = (layer * rows + first) * width
    place = row * width + column
    tl.store(out + start + place, _gelu(tl.load(h + start + place, inside, 0.0).to(tl.float32) + b), inside)


@triton.jit
def gelu_backward_kernel(
    h, bias, grad, grad_out, out, partials, rows, width, chunk, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """grad *= gelu'(h + bias) in place, and out = gelu(h + bias), which may be h.

    ``partials`` gets the sums over ``chunk`` rows of the new grad and of grad_out.
    """
    layer = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * chunk
    flat = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    column = flat[None, :]
    b = tl.load(bias + layer * width + column, column < width, 0.0).to(tl.float32)
    start = (layer * rows + first) * width
    h += start
    grad += start
    grad_out += start
    out += start
    sum_hidden = tl.zeros([COLUMNS], tl.float32)
    sum_out = tl.zeros([COLUMNS], tl.float32)
    for step in range(0, chunk, ROWS):
        row = step + tl.arange(0, ROWS)[:, None]
        inside = (row < rows - first) & (column < width)
        place = row * width + column
        pre = tl.load(h + place, inside, 0.0).to(tl.float32) + b
        g = tl.load(grad + place, inside, 0.0).to(tl.float32) * _gelu_slope(pre)
        tl.store(grad + place, g, inside)
        tl.store(out + place, _gelu(pre), inside)
        sum_hidden += tl.sum(g, 0)
        sum_out += tl.sum(tl.load(grad_out + place, inside, 0.0).to(tl.float32), 0)
    partials += (layer * tl.num_programs(0) + tl.program_id(0)) * 2 * width
    tl.store(partials + flat, sum_hidden, flat < width)
    tl.store(partials + width + flat, sum_out, flat < width)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, offset: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """x [S, M, Dv] -> n in ``dtype`` and, where ``offset`` [S, Dv] is given, n + offset."""
    layers, rows, width = x.shape
    tile = _tile("layer_norm", x.device, dtype, width)
    n = torch.empty(x.shape, dtype=dtype, device=x.device)
    skip = None if offset is None else torch.empty_like(n)
    layer_norm_kernel[triton.cdiv(rows, tile.rows), layers](
        x, weight, bias, offset, n, skip, rows, width, x.stride(0), x.stride(1), eps,
        IDENTITY=offset is not None, ROWS=tile.rows, COLUMNS=tile.columns, num_warps=tile.num_warps,
    )  # fmt: skip
    return n, skip


def layer_norm_backward(
    x: Tensor, grad_n: Tensor, grad_skip: Tensor | None, weight: Tensor, eps: float, need_x: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradient of x if ``need_x``, and those of weight and bias, fp32 [S, 2, Dv]."""
    layers, rows, width = x.shape
    tile = _tile("layer_norm_backward", x.device, grad_n.dtype, width)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device) if need_x else None
    chunks = triton.cdiv(rows, tile.chunk)
    partials = torch.empty(layers, chunks, 2, width, dtype=torch.float32, device=x.device)
    layer_norm_backward_kernel[chunks, layers](
        x, grad_n, grad_skip, weight, grad_x, partials, rows, width, x.stride(0), x.stride(1), eps, tile.chunk,
        IDENTITY=grad_skip is not None, NEED_X=need_x, ROWS=tile.rows, COLUMNS=tile.columns, num_warps=tile.num_warps,
    )  # fmt: skip
    return grad_x, partials.sum(1)


def gelu(h: Tensor, bias: Tensor) -> Tensor:
    """h [S, M, D], bias [S, D] -> gelu(h + bias) in h's dtype."""
    layers, rows, width = h.shape
    tile = _tile("gelu", h.device, h.dtype, width)
    out = torch.empty_like(h)
    grid = (triton.cdiv(rows, tile.rows), triton.cdiv(width, tile.columns), layers)
    gelu_kernel[grid](h, bias, out, rows, width, ROWS=tile.rows, COLUMNS=tile.columns, num_warps=tile.num_warps)
    return out


def gelu_backward(h: Tensor, bias: Tensor, grad: Tensor, grad_out: Tensor, out: Tensor) -> Tensor:
    """The sums over rows, fp32 [S, 2, D], of the gradient of h, which replaces ``grad``, and of ``grad_out``.

    Writes gelu(h + bias) to ``out``, which may be h.
    """
    layers, rows, width = h.shape
    tile = _tile("gelu_backward", h.device, h.dtype, width)
    chunks = triton.cdiv(rows, tile.chunk)
    partials = torch.empty(layers, chunks, 2, width, dtype=torch.float32, device=h.device)
    gelu_backward_kernel[chunks, triton.cdiv(width, tile.columns), layers](
        h, bias, grad, grad_out, out, partials, rows, width, tile.chunk,
        ROWS=tile.rows, COLUMNS=tile.columns, num_warps=tile.num_warps,
    )  # fmt: skip
    return partials.sum(1)


def _tile(kernel: str, device: torch.device, dtype: torch.dtype, width: int) -> Tile:
    if kernel.startswith("layer_norm") and width > WIDEST:
        raise invalid("x.shape[2]", width, f"at most {WIDEST} under backend 'triton'")
    return elementwise(kernel, capability(device), str(dtype).removeprefix("torch."), width)


_BLOCKS = (256, 1024, 2048)  # the widths of towers and hosts, rounded up to powers of two
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def compile_cases(capability: int) -> list[CompileCase]:
    """Every kernel in every dtype at the tile that GPUs of ``capability`` run it with."""
    cases: dict[str, CompileCase] = {}
    for kernel in KERNELS:
        for block in _BLOCKS:
            for dtype in _DTYPES:
                tile = elementwise(kernel, capability, dtype, block)
                for identity in (False, True) if kernel.startswith("layer_norm") else (False,):
                    case = _compile_case(kernel, tile, _DTYPES[dtype], identity)
                    cases[case.name] = case
    return list(cases.values())


def _compile_case(kernel: str, tile: Tile, dtype: str, identity: bool) -> CompileCase:
    """One launch; with bf16 as under autocast, with fp32 parameters. Kernels get ``tile.chunk`` at run time."""
    function = {
        "layer_norm": layer_norm_kernel,
        "layer_norm_backward": layer_norm_backward_kernel,
        "gelu": gelu_kernel,
        "gelu_backward": gelu_backward_kernel,
    }[kernel]
    constexprs = {"IDENTITY": identity, "NEED_X": True, "ROWS": tile.rows, "COLUMNS": tile.columns}
    constexprs = {name: value for name, value in constexprs.items() if name in function.arg_names}
    kinds = dict.fromkeys(constexprs, "constexpr") | {"eps": "fp32", "partials": "*fp32"}
    kinds |= dict.fromkeys(("weight", "bias", "offset"), "*fp32" if dtype == "bf16" else f"*{dtype}")
    kinds |= dict.fromkeys(("rows", "width", "stride_layer", "stride_row", "chunk"), "i32")
    signature = {name: kinds.get(name, f"*{dtype}") for name in function.arg_names}
    text = f"{dtype}.{tile.rows}x{tile.columns}w{tile.num_warps}" + ".identity" * identity
    name, attrs = f"projector.{kernel}.{text}", aligned(signature, "rows")
    return CompileCase(name, function, signature, constexprs, tile.num_warps, num_stages=3, attrs=attrs)
