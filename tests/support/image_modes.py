"""A picture in every mode that a PNG or a JPEG can have, and how far a processor's pixels are from training's."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from hive.data.images import ImageSpec, load


class Encoded(NamedTuple):
    """What an image file is written from."""

    image: Image.Image
    options: dict[str, Any]
    kind: str = "png"


def waves(size: tuple[int, int]) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 3, size[0]), np.linspace(0, 3, size[1]))
    channels = np.stack([np.sin(x + y), np.cos(x - y), np.sin(x * y)], axis=-1)
    return Image.fromarray((127.5 + 127.5 * channels).astype(np.uint8))


def see_through(size: tuple[int, int]) -> Image.Image:
    image = waves(size)
    image.putalpha(image.getchannel(2))
    return image


def palette(size: tuple[int, int]) -> Image.Image:
    return waves(size).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)


def corner(image: Image.Image) -> Any:
    return image.getpixel((0, 0))


MODES: dict[str, Callable[[tuple[int, int]], Encoded]] = {
    "RGB": lambda size: Encoded(waves(size), {}),
    "RGBA": lambda size: Encoded(see_through(size), {}),
    "LA": lambda size: Encoded(see_through(size).convert("LA"), {}),
    "L": lambda size: Encoded(waves(size).convert("L"), {}),
    "1": lambda size: Encoded(waves(size).convert("1"), {}),
    "CMYK": lambda size: Encoded(waves(size).convert("CMYK"), {}, "jpeg"),
    "P": lambda size: Encoded(palette(size), {}),
    "P with a transparent colour": lambda size: Encoded(palette(size), {"transparency": corner(palette(size))}),
    "P with alphas": lambda size: Encoded(palette(size), {"transparency": bytes(range(0, 256, 16))}),
    "L with a transparent level": lambda size: Encoded(
        waves(size).convert("L"), {"transparency": corner(waves(size).convert("L"))}
    ),
    "RGB with a transparent colour": lambda size: Encoded(waves(size), {"transparency": corner(waves(size))}),
}


TRANSPARENT = {name for name in MODES if "A" in name or "transparent" in name or "alphas" in name}


def encode(picture: Encoded) -> bytes:
    buffer = io.BytesIO()
    picture.image.save(buffer, picture.kind, **picture.options)
    return buffer.getvalue()


def levels_apart(processor: Any, data: bytes, spec: ImageSpec, image: Image.Image | None = None) -> float:
    """The largest difference between a processor's pixels of an encoded image and training's, of 255 levels."""
    image = Image.open(io.BytesIO(data)) if image is None else image
    return levels_between(processor(image, return_tensors="pt")["pixel_values"][0], data, spec)


def levels_between(pixels: torch.Tensor, data: bytes, spec: ImageSpec) -> float:
    """The same for pixels [3, size, size] that a processor gave."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    trained_on = load(data, spec, max_megapixels=1)
    assert pixels.shape == trained_on.shape
    return ((pixels * std + mean) * 255 - trained_on).abs().max().item()
