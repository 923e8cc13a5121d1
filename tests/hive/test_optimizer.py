"""Optimiser and learning rate against the formulas they claim."""

import math

import pytest
import torch

from hive.config import Schedule
from hive.optimizer import build_optimizer, learning_rate


def test_the_decay_is_fully_decoupled() -> None:
    """theta <- theta (1 - wd lr_t / lr_peak) - lr_t m_hat / (sqrt(v_hat) + eps), written out in fp64."""
    schedule = Schedule(peak_lr=1e-3, weight_decay=1e-2)
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 3))
    theta = weight.detach().double()
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    optimizer = build_optimizer({"fc.weight": weight}, schedule)
    for step, rate in enumerate((2e-4, 1e-3, 5e-4), start=1):
        gradient = torch.randn(4, 3)
        weight.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        m = 0.9 * m + 0.1 * gradient.double()
        v = 0.95 * v + 0.05 * gradient.double() ** 2
        update = (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        theta = theta * (1 - 1e-2 * rate / 1e-3) - rate * update
    torch.testing.assert_close(weight.detach().double(), theta, atol=1e-6, rtol=0)


def test_only_matrices_decay() -> None:
    names = ("fc.weight", "fc.bias", "projector.fc1_bias", "projector.norm_weight", "blocks.0.gate")
    shapes = ((2, 2), (2,), (2, 2), (2, 2), ())
    parameters = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in zip(names, shapes, strict=True)}
    decayed, free = build_optimizer(parameters, Schedule()).param_groups
    assert [id(p) for p in decayed["params"]] == [id(parameters["fc.weight"])]
    assert len(free["params"]) == 4
    assert free["weight_decay"] == 0


def test_learning_rate_by_hand() -> None:
    schedule = Schedule(peak_lr=1.0, min_lr=0.1, warmup=0.2)
    rates = [learning_rate(schedule, step, 10) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 8)) / 2)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate(schedule, 0, 1) == 1.0
