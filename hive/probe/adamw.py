"""AdamW for heads that are trained side by side, each with its own learning rate, decay and clipping."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class BatchedAdamW:
    """torch.optim.AdamW, for parameters [R, G, ...] whose grid points G have their own learning rate and decay.

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
        """One update at learning rates [G]; a head whose gradient's norm is above `clip` has it scaled down to that."""
        self.count += 1
        beta1, beta2 = self.betas
        scale = self._scale(clip)
        for parameter, first, second in zip(self.parameters, self.first, self.second, strict=True):
            assert parameter.grad is not None
            gradient = parameter.grad * _like(scale, parameter)
            lr, decay = _like(rate, parameter), _like(rate * self.weight_decay, parameter)
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            root = (second / (1 - beta2**self.count)).sqrt_().add_(self.eps)
            parameter.mul_(1 - decay).sub_(first / root * (lr / (1 - beta1**self.count)))
            parameter.grad = None

    def _scale(self, clip: float) -> Tensor:
        """[R, G], as nn.utils.clip_grad_norm_ has it for one head."""
        squares = [p.grad.square().flatten(2).sum(2) for p in self.parameters if p.grad is not None]
        return (clip / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1)


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """[G] or [R, G] with ones behind it, to go with [R, G, ...]."""
    return value.view(*value.shape, *[1] * (parameter.ndim - 2))
