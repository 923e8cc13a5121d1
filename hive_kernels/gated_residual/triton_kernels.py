"""x + tanh(gate) y in one pass, and its gradients in one pass and a sum of partials in a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hive_kernels.compile_case import CompileCase
from hive_kernels.gated_residual.tiles import CANDIDATES, ELEMENTWISE, Tile, elementwise
from hive_kernels.launch import capability

SUM_BLOCK = 1024


@triton.jit
def _tanh(g):
    """Accurate near 0 too, where a gate starts: there 1 - 2 / (exp(2g) + 1) would cancel, so its series is used."""
    s = g * g
    series = g * (1 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835)))))
    return tl.where(tl.abs(g) < 0.2, series, 1 - 2 / (tl.exp(2 * g) + 1))


@triton.jit
def gated_residual_kernel(x, y, gate, out, total, ELEMENTS: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = place < total
    opening = _tanh(tl.load(gate).to(tl.float32))
    added = opening * tl.load(y + place, inside, 0.0).to(tl.float32)
    tl.store(out + place, tl.load(x + place, inside, 0.0).to(tl.float32) + added, inside)


@triton.jit
def gated_residual_backward_kernel(grad, y, gate, grad_y, partials, total, ELEMENTS: tl.constexpr):
    """grad_y = tanh(gate) grad, and this program's part of sum(grad y)."""
    place = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = place < total
    opening = _tanh(tl.load(gate).to(tl.float32))
    g = tl.load(grad + place, inside, 0.0).to(tl.float32)
    tl.store(grad_y + place, opening * g, inside)
    tl.store(partials + tl.program_id(0), tl.sum(g * tl.load(y + place, inside, 0.0).to(tl.float32), 0))


@triton.jit
def gate_gradient_kernel(partials, gate, grad_gate, count, BLOCK: tl.constexpr):
    """One program: the partials' sum times the slope of tanh."""
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        place = start + tl.arange(0, BLOCK)
        total += tl.load(partials + place, place < count, 0.0)
    opening = _tanh(tl.load(gate).to(tl.float32))
    tl.store(grad_gate, tl.sum(total, 0) * (1 - opening * opening))


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
    """Each kernel in bf16 and fp32, at the default and at this GPU's entries."""
    cases = []
    for dtype, name in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")):
        for tile in {*CANDIDATES, *ELEMENTWISE.values()} if dtype == "bf16" else {elementwise(capability, name)}:
            text = f"{dtype}.{tile.elements}w{tile.num_warps}"
            stream = f"*{dtype}"
            cases.append(
                CompileCase(
                    f"gated_residual.forward.{text}",
                    gated_residual_kernel,
                    {"x": stream, "y": stream, "gate": "*fp32", "out": stream, "total": "i32", "ELEMENTS": "constexpr"},
                    {"ELEMENTS": tile.elements},
                    tile.num_warps,
                    num_stages=3,
                )
            )
            cases.append(
                CompileCase(
                    f"gated_residual.backward.{text}",
                    gated_residual_backward_kernel,
                    {"grad": stream, "y": stream, "gate": "*fp32", "grad_y": stream, "partials": "*fp32",
                     "total": "i32", "ELEMENTS": "constexpr"},
                    {"ELEMENTS": tile.elements},
                    tile.num_warps,
                    num_stages=3,
                )
            )  # fmt: skip
    signature = {"partials": "*fp32", "gate": "*fp32", "grad_gate": "*fp32", "count": "i32", "BLOCK": "constexpr"}
    gate = CompileCase("gated_residual.gate_gradient.fp32", gate_gradient_kernel, signature, {"BLOCK": SUM_BLOCK}, 4, 3)
    return [*cases, gate]
