"""Entropy, effective area, energy and scaling against cases counted by hand."""

from math import log

import pytest
import torch

from hive.maps.numbers import effective_area, energy_share, entropy, unit_range


def test_entropy_and_effective_area() -> None:
    maps = torch.zeros(3, 2, 4)
    maps[0] = 0.5  # all patches alike, whatever they sum to
    maps[1, 1, 2] = 0.3  # one patch
    maps[2, 0, 0] = maps[2, 1, 3] = 0.1  # two
    assert entropy(maps).tolist() == pytest.approx([log(8), 0, log(2)])
    assert effective_area(maps).tolist() == pytest.approx([1, 1 / 8, 2 / 8])


def test_energy_share() -> None:
    maps = torch.tensor([[[3.0, 4.0]], [[5.0, 0.0]], [[0.0, 0.0]]])
    assert energy_share(maps).tolist() == [0.5, 0.5, 0.0]
    assert energy_share(torch.zeros(2, 1, 1)).tolist() == [0, 0]


def test_unit_range() -> None:
    maps = torch.tensor([[[1.0, 3.0, 2.0]], [[7.0, 7.0, 7.0]]])
    assert unit_range(maps).tolist() == [[[0.0, 1.0, 0.5]], [[0.0, 0.0, 0.0]]]
