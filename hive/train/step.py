"""One optimiser step over micro-batches, used by training and by measurements of it."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hive.data.text import Batch
from hive.distributed import World
from hive.profiling import begin


def train_step(
    loss_of: Callable[[Batch], Tensor],
    optimizer: torch.optim.Optimizer,
    micro_batches: Iterator[Batch],
    *,
    tokens: float,
    rate: float,
    clip: float,
    world: World,
) -> tuple[Tensor, Tensor]:
    """Takes one optimiser step; returns this process's share of the mean loss, and the gradient's norm before clipping.

    Both are scalars on the device, so that the host doesn't wait for them. `loss_of` a batch is summed over its
    supervised tokens. `micro_batches` yields batches on the device. `tokens` counts the supervised tokens of all
    micro-batches and processes: each token weighs the same, however the batch is split. `rate` is the learning rate,
    `clip` the largest norm of the gradient.
    """
    device = world.device
    total = torch.zeros((), device=device)
    begin("data")
    for batch in micro_batches:
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(batch) / tokens
        loss.backward()
        total += loss.detach()
        begin("data")
    begin("optimizer")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    world.sum_gradients(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    begin("data")
    return total, norm
