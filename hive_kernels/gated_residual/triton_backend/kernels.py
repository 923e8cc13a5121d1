"""x + tanh(gate) y in one pass, and its gradients in one pass and a sum of partial sums in a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hive_kernels.compile_case import CompileCase, aligned
from hive_kernels.gated_residual.tiles import Tile, elementwise
from hive_kernels.launch import capability

SUM_BLOCK = 1024


@triton.jit
def _tanh(g):
    """tanh(g); near 0, where a gate starts, by its series, because 1 - exp(-2 |g|) would cancel."""
    s = g * g
    series = g * (1 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835)))))
    e = tl.exp(-2 * tl.abs(g))
    return tl.where(s < 0.04, series, tl.where(g < 0, -1.0, 1.0) * (1 - e) / (1 + e))


@triton.jit
def gated_residual_kernel(x, y, gate, out, total, ELEMENTS: tl.constexpr):
    """out = x + tanh(gate) y for one tile of elements."""
    start = tl.program_id(0).to(tl.int64) * ELEMENTS
    place = tl.arange(0, ELEMENTS)
    inside = place < total - start
    opening = _tanh(tl.load(gate).to(tl.float32))
    added = opening * tl.load(y + start + place, inside, 0.0).to(tl.float32)
    tl.store(out + start + place, tl.load(x + start + place, inside, 0.0).to(tl.float32) + added, inside)


@triton.jit
def gated_residual_backward_kernel(grad, y, gate, grad_y, partials, total, ELEMENTS: tl.constexpr):
    """grad_y = tanh(gate) grad for one tile of elements, and the tile's part of sum(grad y)."""
    start = tl.program_id(0).to(tl.int64) * ELEMENTS
    place = tl.arange(0, ELEMENTS)
    inside = place < total - start
    opening = _tanh(tl.load(gate).to(tl.float32))
    g = tl.load(grad + start + place, inside, 0.0).to(tl.float32)
    tl.store(grad_y + start + place, opening * g, inside)
    tl.store(partials + tl.program_id(0), tl.sum(g * tl.load(y + start + place, inside, 0.0).to(tl.float32), 0))


@triton.jit
def gate_gradient_kernel(partials, gate, grad_gate, count, BLOCK: tl.constexpr):
    """grad_gate = sum(partials) tanh'(gate), in one program; the slope as 4 e / (1 + e)^2, which doesn't cancel."""
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        place = start + tl.arange(0, BLOCK)
        total += tl.load(partials + place, place < count, 0.0)
    e = tl.exp(-2 * tl.abs(tl.load(gate).to(tl.float32)))
    tl.store(grad_gate, tl.sum(total, 0) * (4 * e / ((1 + e) * (1 + e))))


def forward(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x, y contiguous, of one shape; gate of one element -> x's shape and dtype."""
    tile = _tile(x)
    out = torch.empty_like(x)
    grid = (triton.cdiv(x.numel(), tile.elements),)
    gated_residual_kernel[grid](x, y, gate, out, x.numel(), ELEMENTS=tile.elements, num_warps=tile.num_warps)
    return out


def backward(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """grad, y contiguous -> the gradients of y and gate."""
    tile = _tile(grad)
    programs = triton.cdiv(grad.numel(), tile.elements)
    grad_y, grad_gate = torch.empty_like(y), torch.empty_like(gate)
    partials = torch.empty(programs, dtype=torch.float32, device=grad.device)
    gated_residual_backward_kernel[(programs,)](
        grad, y, gate, grad_y, partials, grad.numel(), ELEMENTS=tile.elements, num_warps=tile.num_warps
    )
    gate_gradient_kernel[(1,)](partials, gate, grad_gate, programs, BLOCK=SUM_BLOCK, num_warps=4)
    return grad_y, grad_gate


def _tile(x: Tensor) -> Tile:
    return elementwise(capability(x.device), str(x.dtype).removeprefix("torch."))


def compile_cases(capability: int) -> list[CompileCase]:
    """Every kernel in every dtype at the tile that GPUs of ``capability`` run it with."""
    cases = []
    for dtype, name in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")):
        tile = elementwise(capability, name)
        for function, direction in ((gated_residual_kernel, "forward"), (gated_residual_backward_kernel, "backward")):
            kinds = {"gate": "*fp32", "partials": "*fp32", "total": "i32", "ELEMENTS": "constexpr"}
            signature = {argument: kinds.get(argument, f"*{dtype}") for argument in function.arg_names}
            text = f"gated_residual.{direction}.{dtype}.{tile.elements}w{tile.num_warps}"
            constexprs, attrs = {"ELEMENTS": tile.elements}, aligned(signature)
            cases.append(CompileCase(text, function, signature, constexprs, tile.num_warps, 3, attrs))
    signature = {"partials": "*fp32", "gate": "*fp32", "grad_gate": "*fp32", "count": "i32", "BLOCK": "constexpr"}
    gate = CompileCase("gated_residual.gate_gradient.fp32", gate_gradient_kernel, signature, {"BLOCK": SUM_BLOCK}, 4, 3)
    return [*cases, gate]
