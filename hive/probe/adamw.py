"""AdamW for heads that are trained side by side, each with its own learning rate, decay and clipping."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class BatchedAdamW:
    """torch.optim.AdamW for parameters [R seeds, G grid points, ...]; each grid point has its own rate and decay.

    Loshchilov and Hutter 2019: theta <- theta (1 - lr wd) - lr m / (sqrt(v) + eps), moments corrected for their bias.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        weight_decay: Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """`weight_decay`: [G]."""
        self.parameters = list(parameters)
        self.weight_decay, self.betas, self.eps, self.count = weight_decay, betas, eps, 0
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, rate: Tensor, clip: float) -> None:
        """Updates the parameters at learning rates [G], a head's gradient norm limited to `clip`; clears gradients."""
        self.count += 1
        beta1, beta2 = self.betas
        factors = self._clip_factors(clip)
        for parameter, first, second in zip(self.parameters, self.first, self.second, strict=True):
            assert parameter.grad is not None
            gradient = parameter.grad * _add_dimensions(factors, parameter)
            lr = _add_dimensions(rate, parameter)
            decay = _add_dimensions(rate * self.weight_decay, parameter)
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            root = (second / (1 - beta2**self.count)).sqrt_().add_(self.eps)
            parameter.mul_(1 - decay).sub_(first / root * (lr / (1 - beta1**self.count)))
            parameter.grad = None

    def _clip_factors(self, clip: float) -> Tensor:
        """Returns the factor of each head's gradient, [R, G], as nn.utils.clip_grad_norm_ computes it for one head."""
        squares = [p.grad.square().flatten(2).sum(2) for p in self.parameters if p.grad is not None]
        return (clip / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1)


def _add_dimensions(value: Tensor, parameter: Tensor) -> Tensor:
    """Returns `value`, [G] or [R, G], with trailing dimensions of 1, so that it broadcasts to [R, G, ...]."""
    return value.view(*value.shape, *[1] * (parameter.ndim - 2))
