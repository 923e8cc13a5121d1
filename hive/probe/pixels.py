"""Batches of pixels from worker processes, in a planned order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from hive.data.images import BadImage, ImageSpec
from hive.data.loader import stream
from hive.probe.datasets.images import LabelledImages

BadImages = list[tuple[int, str]]  # (index, reason)


@dataclass(frozen=True)
class _PlannedPixels(Dataset):
    """Item k has the pixels of the images in item k of the plan, and the images that can't be read."""

    images: LabelledImages
    spec: ImageSpec
    plan: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, BadImages]:
        indices = self.plan[item]
        pixels = torch.zeros(len(indices), 3, self.spec.size, self.spec.size, dtype=torch.uint8)
        bad: BadImages = []
        for position, index in enumerate(indices):
            try:
                pixels[position] = self.images.pixels(int(index), self.spec)
            except BadImage as error:
                bad.append((int(index), str(error)))
        return pixels, bad


def pixel_batches(
    images: LabelledImages, spec: ImageSpec, plan: Sequence[np.ndarray], workers: int, pin: bool
) -> Iterator[tuple[torch.Tensor, BadImages]]:
    """Yields (pixels uint8 [B, 3, size, size], unreadable images) for each array of indices in the plan.

    The pixels of an unreadable image are 0.
    """
    return stream(_PlannedPixels(images, spec, plan), workers, pin)
