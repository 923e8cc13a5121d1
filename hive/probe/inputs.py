"""Inputs of the heads in a planned order: features from the cache, or computed by the tower batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hive.probe.augment import Augmentation
from hive.probe.datasets.images import LabelledImages
from hive.probe.features import IMAGES_A_PASS, Features
from hive.probe.pixels import pixel_batches
from hive.probe.plan import Flat
from hive.probe.protocol import HeadName
from hive.probe.tower import ProbedTower

Inputs = dict[HeadName, Tensor]


class Source(Protocol):
    """Inputs of the images that a plan names."""

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[Inputs]:
        """Yields inputs by head for each array of indices [R, B]: [R, B, N, D] of "attention", [R, B, D] of others."""
        ...


@dataclass(frozen=True, eq=False)
class CachedSource:
    """Takes inputs from features that are computed already."""

    features: Features
    heads: Sequence[HeadName]
    device: torch.device

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[Inputs]:
        """See `Source`."""
        pooled = {"mean": 0, "cls": 1}
        for indices in plan:
            inputs: Inputs = {}
            for head in self.heads:
                if head == "attention":
                    assert self.features.tokens is not None
                    features = self.features.tokens[indices]
                else:
                    features = self.features.pooled[indices, pooled[head]]
                inputs[head] = torch.from_numpy(features).to(self.device).float()
            yield inputs


@dataclass(frozen=True, eq=False)
class TowerSource:
    """Runs the tower for every batch."""

    tower: ProbedTower
    images: LabelledImages
    heads: Sequence[HeadName]
    workers: int
    augmentation: Augmentation | None = None

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[Inputs]:
        """See `Source`. An augmented image differs from step to step and from seed to seed."""
        flat = Flat(plan)
        pin = self.tower.device.type == "cuda"
        for step, (pixels, _) in enumerate(pixel_batches(self.images, self.tower.spec, flat, self.workers, pin)):
            R, B = plan[step].shape
            tokens = torch.cat(
                [self._tokens(part, r, step) for r, part in enumerate(pixels.view(R, B, *pixels.shape[1:]))]
            )
            tokens = tokens.view(R, B, *tokens.shape[1:])
            patches = tokens[:, :, self.tower.class_tokens :]
            features: Inputs = {"attention": patches, "mean": patches.mean(2), "cls": tokens[:, :, 0]}
            yield {head: features[head] for head in self.heads}

    def _tokens(self, pixels: Tensor, seed: int, step: int) -> Tensor:
        pixels = pixels.to(self.tower.device, non_blocking=True)
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, seed, step)
        return torch.cat([self.tower.tokens(part) for part in pixels.split(IMAGES_A_PASS)])
