"""The table of backends and operations, in which the public functions look up the function that computes a call.

BACKENDS lists the backends, and each :class:`Operation` the functions that compute it; a new backend is added to both.
``python -m hive_kernels.backends`` prints the table for this machine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

import hive_kernels.attention.cuda_backend as cuda_attention
import hive_kernels.attention.reference as reference_attention
import hive_kernels.attention.torch_backend as torch_attention
import hive_kernels.attention.triton_backend as triton_attention
import hive_kernels.gated_residual.cuda_backend as cuda_gate
import hive_kernels.gated_residual.reference as reference_gate
import hive_kernels.gated_residual.torch_backend as torch_gate
import hive_kernels.gated_residual.triton_backend as triton_gate
import hive_kernels.linear_cross_entropy.reference as reference_loss
import hive_kernels.linear_cross_entropy.torch_backend as torch_loss
import hive_kernels.projector.reference as reference_projector
import hive_kernels.projector.torch_backend as torch_projector
import hive_kernels.projector.triton_backend as triton_projector
from hive_kernels import launch, native
from hive_kernels.attention.limits import Limits
from hive_kernels.backends.backend import Backend

AUTO = "torch"  # everywhere, until a measured result in benchmarks/results/ shows triton ahead on a GPU
_HALF = (torch.bfloat16, torch.float16)


def _reference_unavailable(kind: str) -> str | None:
    return "it reads cu_seqlens on the host, and meta tensors hold no values" if kind == "meta" else None


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("torch", lambda kind: None),
        Backend("reference", _reference_unavailable),
        Backend(
            "triton",
            launch.reason_unavailable,
            has_run_on_a_gpu=False,
            attention=triton_attention.LIMITS,
            # The interpreter's bf16 products are wrong.
            checked={"cuda": (*_HALF, torch.float32), "cpu": (torch.float16, torch.float32)},
        ),
        Backend(
            "cuda",
            native.reason_unavailable,
            has_run_on_a_gpu=False,
            attention=cuda_attention.LIMITS,
            checked={"cuda": _HALF, "cpu": _HALF},  # it has no attention in fp32
        ),
    )
}

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Operation(Generic[Function]):
    """An operation, and the functions that compute it, all with the same signature."""

    name: str
    functions: dict[str, Function]
    """By backend. A backend that isn't here leaves the operation to its ``leaves_to``."""

    def served_by(self, backend: str) -> str:
        """The backend whose function computes the operation under ``backend``."""
        return backend if backend in self.functions else BACKENDS[backend].leaves_to

    def function(self, backend: str, device: torch.device) -> Function:
        """The function that computes the operation; ``backend`` and the errors are those of :func:`resolve`."""
        return self.functions[self.served_by(resolve(backend, device))]

    def limits(self, backend: str) -> Limits | None:
        """The queries that the attention behind ``backend`` supports; None means all."""
        return BACKENDS[self.served_by(backend)].attention


# Two operations have no kernels here: torch's causal attention over text is FlashAttention-2, and the loss is two large
# GEMMs per chunk, which kernels would not speed up. ``cuda`` has kernels only for cross-attention and its gate, which
# run in every layer that reads images.
CAUSAL_ATTENTION = Operation(
    "causal_attention",
    {"reference": reference_attention.causal_attention, "torch": torch_attention.causal_attention},
)
CROSS_ATTENTION = Operation(
    "cross_attention",
    {
        "reference": reference_attention.cross_attention,
        "torch": torch_attention.cross_attention,
        "triton": triton_attention.cross_attention,
        "cuda": cuda_attention.cross_attention,
    },
)
CROSS_ATTENTION_WEIGHTS = Operation(
    "cross_attention_weights",
    {
        "reference": reference_attention.cross_attention_weights,
        "torch": torch_attention.cross_attention_weights,
        "triton": triton_attention.cross_attention_weights,
    },
)
GATED_RESIDUAL = Operation(
    "gated_residual",
    {
        "reference": reference_gate.gated_residual,
        "torch": torch_gate.gated_residual,
        "triton": triton_gate.gated_residual,
        "cuda": cuda_gate.gated_residual,
    },
)
JOINT_ATTENTION = Operation(
    "joint_attention",
    {
        "reference": reference_attention.joint_attention,
        "torch": torch_attention.joint_attention,
        "triton": triton_attention.joint_attention,
    },
)
LINEAR_CROSS_ENTROPY = Operation(
    "linear_cross_entropy",
    {"reference": reference_loss.linear_cross_entropy, "torch": torch_loss.linear_cross_entropy},
)
RESIDUAL_PROJECTOR = Operation(
    "residual_projector",
    {
        "reference": reference_projector.residual_projector,
        "torch": torch_projector.residual_projector,
        "triton": triton_projector.residual_projector,
    },
)
OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        CAUSAL_ATTENTION,
        CROSS_ATTENTION,
        CROSS_ATTENTION_WEIGHTS,
        GATED_RESIDUAL,
        JOINT_ATTENTION,
        LINEAR_CROSS_ENTROPY,
        RESIDUAL_PROJECTOR,
    )
}


def reason_unavailable(name: str, device: torch.device | str) -> str | None:
    """Why backend ``name`` can't run on ``device`` now; None when it can."""
    return BACKENDS[name].reason_unavailable(torch.device(device).type)


def resolve(name: str, device: torch.device | str) -> str:
    """The name of the backend that ``name`` means on ``device``.

    Args:
        name: ``auto``, ``reference`` (the definition, any dtype up to fp64), ``torch`` (SDPA, batched GEMMs),
            ``triton`` or ``cuda`` (our kernels).
        device: where the tensors are, as a ``torch.device`` or its name.

    Returns:
        A name other than ``auto``, which every operation accepts as its ``backend``.

    Raises:
        ValueError: the name is unknown, or the backend can't run there; the message says why and names those that can.
    """
    if name == "auto":
        return AUTO
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; allowed: auto, {', '.join(BACKENDS)}")
    kind = device.type if isinstance(device, torch.device) else torch.device(device).type
    reason = BACKENDS[name].reason_unavailable(kind)
    if reason is not None:
        usable = [candidate for candidate, other in BACKENDS.items() if other.reason_unavailable(kind) is None]
        raise ValueError(
            f"backend is {name!r}, which can't run on {kind}: {reason}; allowed here: auto, {', '.join(usable)}"
        )
    return name


def table(device: torch.device | str) -> str:
    """A text of operations by backends: what computes each on ``device``, and why a backend can't run there."""
    width = max(map(len, OPERATIONS)) + 2
    lines = [f"{'on ' + str(device):{width}}" + "".join(f"{name:11}" for name in BACKENDS)]
    reasons = {name: reason_unavailable(name, device) for name in BACKENDS}
    for operation in OPERATIONS.values():
        cells = ["no" if reasons[name] else operation.served_by(name) for name in BACKENDS]
        lines.append(f"{operation.name:{width}}" + "".join(f"{cell:11}" for cell in cells))
    lines += [f"{name}: {reason}" for name, reason in reasons.items() if reason]
    lines += [f"{name}: not yet run on a GPU" for name in BACKENDS if not BACKENDS[name].has_run_on_a_gpu]
    return "\n".join([*(line.rstrip() for line in lines), f"auto means {resolve('auto', device)}"])
