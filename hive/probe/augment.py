"""Table 4's augmentations, on the tower's device."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hive.errors import UserError


class Augmentation:
    """Random crop, flip and colour of every image by itself.

    RandomResizedCrop of 0.4 to 1.0 of the area at ratios 0.75 to 1.33, bicubic; horizontal flip of every second image;
    brightness, contrast and saturation by factors from 0.8 to 1.2. It starts from the pixels that the tower's own
    preprocessing makes.
    """

    def __init__(self, size: int) -> None:
        """Raises `UserError` where kornia is missing."""
        try:
            from kornia import augmentation
        except ImportError:
            raise UserError(
                "--augment needs kornia: install it with pip install 'hive-pretraining[probe]', or leave --augment out."
            ) from None
        self._crop: Any = augmentation.RandomResizedCrop(
            (size, size), scale=(0.4, 1.0), ratio=(0.75, 1.33), resample="bicubic", align_corners=False
        )
        flip = augmentation.RandomHorizontalFlip(p=0.5)
        self._rest = nn.Sequential(flip, augmentation.ColorJitter(0.2, 0.2, 0.2, 0.0))

    @torch.no_grad()
    def __call__(self, pixels: Tensor, seed: int, step: int) -> Tensor:
        """uint8 [B, 3, size, size] to floats from 0 to 255 of the same shape, a function of (seed, step) alone."""
        with torch.random.fork_rng(devices=[]):  # kornia draws from torch's generator on the CPU
            torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1)[0]))  # torch takes 32 bits
            crops = self._crop(pixels.float() / 255).clamp(0, 1)  # bicubic overshoots
            return 255 * self._rest(crops)
