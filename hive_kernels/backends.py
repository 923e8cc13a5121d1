"""Which backends exist for which operation, which can run on a device now, and the reason when one can't."""

import torch

# Fastest first: ``auto`` takes the first that can run.
IMPLEMENTATIONS: dict[str, tuple[str, ...]] = {
    "causal_attention": ("torch", "reference"),
    "cross_attention": ("torch", "reference"),
    "gated_residual": ("torch", "reference"),
    "linear_cross_entropy": ("torch", "reference"),
    "residual_projector": ("torch", "reference"),
}
BACKENDS = ("torch", "reference", "triton", "cuda")


def reason_unavailable(name: str, device: torch.device | str) -> str | None:
    """Why backend ``name`` can't run every operation on ``device`` now; None when it can."""
    missing = [operation for operation, built in IMPLEMENTATIONS.items() if name not in built]
    if missing:
        return f"not built in this version for {', '.join(missing)}"
    if name == "reference" and torch.device(device).type == "meta":
        return "it reads cu_seqlens on the host, and meta tensors hold no values"
    return None


def resolve(name: str, device: torch.device | str) -> str:
    """The backend that ``name`` means on ``device``.

    Args:
        name: ``auto``, ``reference`` (the definition, any dtype up to fp64), ``torch`` (SDPA, batched GEMMs),
            ``triton`` or ``cuda``.
        device: where the tensors are, as a ``torch.device`` or its name.

    Returns:
        A name other than ``auto``, to be passed to every operation.

    Raises:
        ValueError: the name is unknown, or the backend can't run there; the message says why and names those that can.
    """
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; allowed: auto, {', '.join(BACKENDS)}")
    reasons = {candidate: reason_unavailable(candidate, device) for candidate in BACKENDS}
    usable = [candidate for candidate in BACKENDS if reasons[candidate] is None]
    if name == "auto":
        return usable[0]
    if reasons[name] is not None:
        raise ValueError(
            f"backend is {name!r}, which can't run on {torch.device(device).type}: {reasons[name]}; "
            f"allowed here: auto, {', '.join(usable)}"
        )
    return name
