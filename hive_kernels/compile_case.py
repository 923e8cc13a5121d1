"""One Triton kernel at one tile configuration, as it is compiled without a GPU."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CompileCase:
    """What ``triton.compile(ASTSource(...))`` needs.

    ``compile_cases(capability)`` of an operation's ``triton_backend`` yields one for each kernel, tile configuration
    and dtype of that GPU generation.
    """

    name: str
    """Operation, role, dtype, head size and tile, as ``cross_attention.forward.bf16.d64.64x64w4s3``. Unique."""
    function: Any
    """The ``@triton.jit`` function."""
    signature: dict[str, str]
    """Every argument of ``function`` in order: ``"*bf16"``, ``"*i32"``, ``"i32"``, ``"fp32"`` or ``"constexpr"``."""
    constexprs: dict[str, Any]
    """The value of every argument that is ``"constexpr"`` in ``signature``."""
    num_warps: int
    num_stages: int
    attrs: dict[tuple[int], list[list[Any]]] = field(default_factory=dict)
    """ASTSource's ``attrs``: by (argument's position,), such as ``[["tt.divisibility", 16]]`` for aligned pointers."""


def aligned(signature: dict[str, str], *others: str) -> dict[tuple[int], list[list[Any]]]:
    """``attrs`` that declare addresses and integers, except ``others``, multiples of 16, as most launches have them."""
    plain = [i for i, (name, kind) in enumerate(signature.items()) if kind[0] in "*i" and name not in others]
    return {(i,): [["tt.divisibility", 16]] for i in plain}
