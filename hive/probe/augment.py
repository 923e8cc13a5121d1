"""Table 4's augmentations, on the tower's device."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hive.errors import UserError


class Augmentation:
    """Crops, flips and recolours each image at random.

    RandomResizedCrop of 0.4 to 1.0 of the area at ratios 0.75 to 1.33, bicubic; horizontal flip with probability
    0.5; brightness, contrast and saturation by factors from 0.8 to 1.2. Its input is the output of the tower's
    preprocessing.
    """

    def __init__(self, size: int) -> None:
        """`size`: side of the images, in pixels. Raises `UserError` where kornia is missing."""
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
        """Returns augmented pixels [B, 3, size, size], floats 0..255, of uint8 ones; (seed, step) decides all draws."""
        with torch.random.fork_rng(devices=[]):  # kornia draws from torch's generator on the CPU
            torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1)[0]))  # torch takes 32 bits
            crops = self._crop(pixels.float() / 255).clamp(0, 1)  # bicubic overshoots
            return 255 * self._rest(crops)
