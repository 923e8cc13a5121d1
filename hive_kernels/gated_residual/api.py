"""A residual connection with a learned gate."""

from torch import Tensor

from hive_kernels import backends
from hive_kernels.validation import check_float, check_tensor, invalid


def gated_residual(x: Tensor, y: Tensor, gate: Tensor, *, backend: str = "auto") -> Tensor:
    """x + tanh(gate) * y, as Flamingo and Llama-3.2-Vision gate what an image adds to the text.

    At gate = 0 the result is x, y gets gradient 0, and the gate has a gradient.

    Args:
        x: the residual stream, any shape; fp16, bf16, fp32 or fp64.
        y: what is added, x's shape; it may have another floating dtype, as under torch.autocast.
        gate: one element, shape [] or [1], any floating dtype.
        backend: see :func:`hive_kernels.resolve`.

    Returns:
        A tensor of x's shape and dtype.

    Raises:
        ValueError: a shape, dtype or device doesn't fit.
    """
    check_tensor("y", y, tuple(x.shape), x.device)
    check_float("x", x)
    check_float("y", y)
    if not isinstance(gate, Tensor) or gate.numel() != 1 or gate.dim() > 1:
        raise invalid("gate", f"of shape {tuple(gate.shape)}" if isinstance(gate, Tensor) else gate, "shape () or (1,)")
    check_float("gate", gate)
    if gate.device != x.device:
        raise invalid("gate.device", gate.device, f"{x.device}, where x is")
    return backends.GATED_RESIDUAL.function(backend, x.device)(x, y, gate)
