"""torch.compile takes every operation of every backend, forward and backward, as one graph, and its results are right.

The truth is the eager fp64 reference. aot_eager traces. Inductor also lowers: it lays memory out by the shapes and
strides that our operators' fakes promise. What it lowers of torch's own operators is left to torch: as C++ that takes
half a minute to compile.
"""

import ast
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import hive_kernels as kernels
from hive_kernels.backends import BACKENDS, OPERATIONS, reason_unavailable
from hive_kernels.testing import Operation, assert_accurate, cu_seqlens
from tests.support.attention_cases import randn
from tests.support.kernel_backends import CUDA, ROOT, prepare

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COMPILER = torch._inductor.config.cpp.cxx[1]
needs_compiler = pytest.mark.skipif(not shutil.which(COMPILER), reason=f"Inductor needs a C++ compiler, {COMPILER}")
# What makes C++ fast to run makes it slow to compile: its look at the CPU's vectors imports torch again in a process
# for each kind, and its headers are compiled beforehand for more kernels than come here.
QUICK = torch._inductor.config.patch({"cpp.vec_isa_ok": False, "cpp_cache_precompile_headers": False})

# Padding is needed: the second text is shorter than the bound.
OFFSETS, TOKENS = cu_seqlens([3, 2], DEVICE), torch.tensor([1, 4], device=DEVICE)
IMAGE_OFFSETS = cu_seqlens([1, 4], DEVICE)
LOG_SUMS, TARGETS = torch.ones(5, 4, device=DEVICE), torch.tensor([1, -100, 0, 6, 3], device=DEVICE)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return kernels.causal_attention(q, k, v, OFFSETS, max_seqlen=3, backend=backend)


def cross_attention(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return kernels.cross_attention(q, k, v, OFFSETS, max_seqlen_q=3, backend=backend)


def cross_attention_packed(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return kernels.cross_attention(
        q, k, v, OFFSETS, max_seqlen_q=3, cu_seqlens_k=IMAGE_OFFSETS, max_seqlen_k=4, backend=backend
    )


def cross_attention_weights(q: Tensor, k: Tensor, backend: str) -> Tensor:
    lse = LOG_SUMS.to(torch.promote_types(q.dtype, torch.float32))
    return kernels.cross_attention_weights(q, k, lse, OFFSETS, tokens=TOKENS, backend=backend)


def joint_attention(
    q: Tensor, k_text: Tensor, v_text: Tensor, k_image: Tensor, v_image: Tensor, backend: str
) -> Tensor:
    return kernels.joint_attention(q, k_text, v_text, k_image, v_image, OFFSETS, max_seqlen=3, backend=backend)


def linear_cross_entropy(h: Tensor, w: Tensor, backend: str) -> Tensor:
    return kernels.linear_cross_entropy(h, w, TARGETS, backend=backend)


def recomputing_projector(*tensors: Tensor, backend: str) -> Tensor:
    return kernels.residual_projector(*tensors, recompute=True, backend=backend)


QUERIES, TEXT, IMAGES, PACKED = (5, 4, 64), (5, 2, 64), (2, 3, 2, 64), (5, 2, 64)
PROJECTOR = [(2, 5, 8), *[(2, 8)] * 2, *[(2, 8, 8), (2, 8)] * 3]
CASES: dict[str, tuple[Operation, list[tuple[int, ...]]]] = {
    "causal_attention": (causal_attention, [QUERIES, TEXT, TEXT]),
    "cross_attention": (cross_attention, [QUERIES, IMAGES, IMAGES]),
    "cross_attention, packed keys": (cross_attention_packed, [QUERIES, PACKED, PACKED]),
    "cross_attention_weights": (cross_attention_weights, [QUERIES, IMAGES]),
    "joint_attention": (joint_attention, [QUERIES, TEXT, TEXT, IMAGES, IMAGES]),
    "gated_residual": (kernels.gated_residual, [(5, 8), (5, 8), (1,)]),
    "residual_projector": (kernels.residual_projector, PROJECTOR),
    "residual_projector, recompute": (recomputing_projector, PROJECTOR),
    "linear_cross_entropy": (linear_cross_entropy, [(5, 8), (7, 8)]),
}
"""By operation, and after a comma what is special about the case."""


def backends(case: str) -> list[str]:
    """Those that have a function of their own for the case's operation."""
    return list(OPERATIONS[case.partition(",")[0]].functions)


def dtypes(backend: str) -> tuple[torch.dtype, ...]:
    """Those that a backend's kernels are checked in; without kernels, fp32, and bf16 where FlashAttention takes it."""
    without = (torch.float32, torch.bfloat16) if DEVICE == "cuda" else (torch.float32,)
    return BACKENDS[backend].checked.get(DEVICE, without)


def check(case: str, backend: str, dtype: torch.dtype, compiler: str) -> None:
    torch._dynamo.reset()
    operation, shapes = CASES[case]
    tensors = [randn(*shape, seed=i).to(DEVICE) for i, shape in enumerate(shapes)]
    assert_accurate(operation, tensors, dtype, backend, torch.compile(operation, fullgraph=True, backend=compiler))


def test_every_operation_has_a_case():
    assert {case.partition(",")[0] for case in CASES} == set(OPERATIONS)


@pytest.mark.parametrize(
    ("case", "backend", "dtype"),
    [
        pytest.param(case, backend, dtype, id=f"{case}-{backend}-{str(dtype)[6:]}")
        for case in CASES
        for backend in backends(case)
        for dtype in dtypes(backend)
    ],
)
def test_traced(case, backend, dtype, monkeypatch):
    if backend == CUDA.name:
        prepare(CUDA, monkeypatch)
    elif reason := reason_unavailable(backend, DEVICE):
        pytest.skip(reason)
    check(case, backend, dtype, "aot_eager")


@pytest.mark.parametrize("case", CASES)
def test_traced_under_autocast(case):
    with torch.autocast(DEVICE, torch.bfloat16):
        check(case, "torch", torch.float32, "aot_eager")


@needs_compiler
@pytest.mark.parametrize("case", [case for case in CASES if "triton" in backends(case)])
def test_lowered(case):
    with QUICK:
        check(case, "triton", torch.float32, "inductor")


# Compiled by torch 2.11, what an in-place operation returns as an autograd.Function's output gets a gradient of zero.


def in_place(node: ast.AST) -> list[str]:
    """The in-place method that the expression calls last, as index_copy_; nothing if it calls none."""
    method = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
    return [method] if method.endswith("_") and not method.endswith("__") else []


def written_outputs(forward: ast.FunctionDef) -> list[str]:
    """What the function returns as an in-place operation has left it: names, and methods that are called last."""
    written: set[str] = set()
    for node in ast.walk(forward):
        match node:
            case ast.AugAssign(target=ast.Name(name)):
                written.add(name)
            case ast.Assign(targets=[ast.Name(name)], value=value) if in_place(value):
                written.add(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(name))) if in_place(node):
                written.add(name)
            case ast.keyword(arg="out", value=ast.Name(name)):
                written.add(name)
    outputs: list[ast.expr] = []
    for node in ast.walk(forward):
        if isinstance(node, ast.Return) and node.value is not None:
            outputs += node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    names = [x.id for x in outputs if isinstance(x, ast.Name) and x.id in written]
    return names + [method for x in outputs for method in in_place(x)]


def forwards(source: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(class, forward) of every autograd.Function in the source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Function") for base in node.bases):
            yield from ((node.name, x) for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "forward")


def test_no_autograd_function_returns_what_an_in_place_operation_has_left():
    files = [file for folder in ("hive", "hive_kernels") for file in (ROOT / folder).rglob("*.py")]
    outputs = {name: written_outputs(forward) for file in files for name, forward in forwards(file.read_text())}
    assert {"_Scatter", "_ChunkedLoss", "_Attention"} <= outputs.keys()
    assert {name: written for name, written in outputs.items() if written} == {}


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ("return x.new_zeros(size).index_copy_(0, rows, x)", ["index_copy_"]),
        ("out = x.new_zeros(size).index_copy_(0, rows, x); return out", ["out"]),
        ("out = x.new_zeros(size); out.index_copy_(0, rows, x); return out", ["out"]),
        ("loss = 0 * x; loss -= x; return loss, x", ["loss"]),
        ("out = x.clone(); torch.add(x, x, out=out); return out", ["out"]),
        ("out = x.new_zeros(size).index_copy_(0, rows, x); return out.view_as(out)", []),
        ("rest = x.clone(); rest += 1; ctx.save_for_backward(rest); return x * rest", []),
    ],
)
def test_what_counts_as_written(body, written):
    source = f"class F(torch.autograd.Function):\n    def forward(ctx, x, rows, size): {body}"
    assert [written_outputs(forward) for _, forward in forwards(source)] == [written]
