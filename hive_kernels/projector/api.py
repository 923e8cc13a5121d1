"""The residual projector from visual features to the language model's width, all selected layers in one call."""

from torch import Tensor

from hive_kernels import backends
from hive_kernels.projector.parameters import Parameters
from hive_kernels.validation import autocast_dtype, check_float, check_tensor, invalid


def residual_projector(
    x: Tensor,
    ln_w: Tensor,
    ln_b: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w_skip: Tensor | None = None,
    b_skip: Tensor | None = None,
    *,
    eps: float = 1e-5,
    recompute: bool = False,
    backend: str = "auto",
) -> Tensor:
    """skip(n) + gelu(n w1 + b1) w2 + b2 with n = LayerNorm(x), for each of S layers with its own weights (section 3.2).

    GELU is the exact one (erf). skip(n) = n w_skip + b_skip, or n itself without w_skip.

    Args:
        x: visual features [S, M, Dv], M = images * tokens; fp16, bf16, fp32 or fp64.
        ln_w, ln_b: LayerNorm's weight and bias [S, Dv].
        w1, b1: first layer [S, Dv, D], [S, D]. Weights are stored input by output.
        w2, b2: second layer [S, D, D], [S, D].
        w_skip, b_skip: linear skip [S, Dv, D], [S, D]; both None for the identity, which needs Dv == D.
        eps: LayerNorm's epsilon.
        recompute: whether to keep only x for the backward pass, which then computes the forward pass again; ``triton``
            computes only the first product again, whose result it keeps otherwise.
        backend: see :func:`hive_kernels.resolve`.

    Returns:
        [S, M, D] in x's dtype. Under torch.autocast, products and result have autocast's dtype, LayerNorm's statistics
        are fp32, and parameters may have another dtype than x.

    Raises:
        ValueError: a shape, dtype or device doesn't fit.
    """
    check_tensor("x", x, ("S", "M", "Dv"), x.device)
    check_float("x", x)
    if not isinstance(b1, Tensor) or b1.dim() != 2:
        raise invalid("b1", tuple(b1.shape) if isinstance(b1, Tensor) else b1, "a tensor of shape (S, D)")
    layers, width_in, width = x.shape[0], x.shape[2], b1.shape[1]
    if (w_skip is None) != (b_skip is None):
        given = "w_skip" if b_skip is None else "b_skip"
        raise invalid("w_skip, b_skip", f"{given} alone", "both or neither")
    if w_skip is None and width_in != width:
        raise invalid("w_skip", None, f"a tensor, because the identity can't map Dv = {width_in} to D = {width}")
    gemm_dtype = autocast_dtype(x)
    for argument, tensor, shape in (
        ("ln_w", ln_w, (layers, width_in)),
        ("ln_b", ln_b, (layers, width_in)),
        ("w1", w1, (layers, width_in, width)),
        ("b1", b1, (layers, width)),
        ("w2", w2, (layers, width, width)),
        ("b2", b2, (layers, width)),
        ("w_skip", w_skip, (layers, width_in, width)),
        ("b_skip", b_skip, (layers, width)),
    ):
        if tensor is not None:
            check_tensor(argument, tensor, shape, x.device)
            check_float(argument, tensor, x.dtype if gemm_dtype is None else None)
    if not isinstance(eps, float) or eps < 0:
        raise invalid("eps", eps, "a float >= 0")
    parameters = Parameters(ln_w, ln_b, w1, b1, w2, b2, w_skip, b_skip)
    compute = backends.RESIDUAL_PROJECTOR.function(backend, x.device)
    return compute(x, parameters, eps, x.dtype if gemm_dtype is None else gemm_dtype, recompute)
