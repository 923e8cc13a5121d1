"""Which backend serves which operation, which can run on a device now, and the reason when one can't.

``python -m hive_kernels.backends`` prints the table for this machine.
"""

import os
from importlib.util import find_spec

import torch

from hive_kernels import native

# What serves an operation under each choice. Two operations are served by torch under ``triton`` too: causal attention
# over text is FlashAttention-2, and the loss is two large GEMMs a chunk, where a kernel of ours has nothing to win.
# ``cuda`` has kernels for what text does with images in every layer.
SERVED_BY: dict[str, dict[str, str]] = {
    "causal_attention": {"reference": "reference", "torch": "torch", "triton": "torch", "cuda": "torch"},
    "cross_attention": {"reference": "reference", "torch": "torch", "triton": "triton", "cuda": "cuda"},
    "cross_attention_weights": {"reference": "reference", "torch": "torch", "triton": "triton", "cuda": "torch"},
    "gated_residual": {"reference": "reference", "torch": "torch", "triton": "triton", "cuda": "cuda"},
    "joint_attention": {"reference": "reference", "torch": "torch", "triton": "triton", "cuda": "torch"},
    "linear_cross_entropy": {"reference": "reference", "torch": "torch", "triton": "torch", "cuda": "torch"},
    "residual_projector": {"reference": "reference", "torch": "torch", "triton": "triton", "cuda": "torch"},
}
BACKENDS = ("torch", "reference", "triton", "cuda")
AUTO = "torch"  # everywhere, until a measured result in benchmarks/results/ shows triton ahead on a GPU
NOT_RUN_ON_A_GPU = ("triton", "cuda")  # until a result in benchmarks/results/ says otherwise
HAS_TRITON = find_spec("triton") is not None
# Triton reads it when it is imported, and so do we: setting it later would change nothing.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def reason_unavailable(name: str, device: torch.device | str) -> str | None:
    """Why backend ``name`` can't run on ``device`` now; None when it can."""
    kind = torch.device(device).type
    if name == "cuda":
        return native.reason_unavailable(kind)
    if name == "reference" and kind == "meta":
        return "it reads cu_seqlens on the host, and meta tensors hold no values"
    if name != "triton":
        return None
    if not HAS_TRITON:
        return "the package triton can't be imported; pip install triton"
    if kind == "cuda":
        return None if torch.cuda.is_available() else "torch sees no CUDA GPU"
    if kind == "cpu":
        return None if INTERPRETED else "Triton needs a GPU; on a CPU TRITON_INTERPRET=1 interprets it, slowly"
    return "Triton runs on CUDA GPUs"


def resolve(name: str, device: torch.device | str) -> str:
    """The backend that ``name`` means on ``device``.

    Args:
        name: ``auto``, ``reference`` (the definition, any dtype up to fp64), ``torch`` (SDPA, batched GEMMs),
            ``triton`` or ``cuda`` (our kernels).
        device: where the tensors are, as a ``torch.device`` or its name.

    Returns:
        A name other than ``auto``, to be passed to every operation.

    Raises:
        ValueError: the name is unknown, or the backend can't run there; the message says why and names those that can.
    """
    if name == "auto":
        return AUTO
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; allowed: auto, {', '.join(BACKENDS)}")
    reason = reason_unavailable(name, device)
    if reason is not None:
        usable = [candidate for candidate in BACKENDS if reason_unavailable(candidate, device) is None]
        raise ValueError(
            f"backend is {name!r}, which can't run on {torch.device(device).type}: {reason}; "
            f"allowed here: auto, {', '.join(usable)}"
        )
    return name


def table(device: torch.device | str) -> str:
    """Operations by backends: what serves each on ``device``, and why a backend can't run there."""
    width = max(map(len, SERVED_BY)) + 2
    lines = [f"{'on ' + str(device):{width}}" + "".join(f"{name:11}" for name in BACKENDS)]
    reasons = {name: reason_unavailable(name, device) for name in BACKENDS}
    for operation, served in SERVED_BY.items():
        cells = ["no" if reasons[name] else served[name] for name in BACKENDS]
        lines.append(f"{operation:{width}}" + "".join(f"{cell:11}" for cell in cells))
    lines += [f"{name}: {reason}" for name, reason in reasons.items() if reason]
    lines += [f"{name}: not yet run on a GPU" for name in NOT_RUN_ON_A_GPU]
    return "\n".join([*(line.rstrip() for line in lines), f"auto means {resolve('auto', device)}"])
