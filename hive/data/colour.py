"""Any mode of pixels as 8-bit RGB: deep grey scaled, transparency on white, inks and Lab as colours."""

import io
import math
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageFile

_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339  # TIFF tags
_WHITE_IS_ZERO, _UNSIGNED = 0, 1


_DEPTHS = (8, 10, 12, 14, 16, 24, 32)
_OTHER_BYTES = {";16L": ";16B", ";16B": ";16L", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
"""Pillow's name of 16-bit colours, which it cuts to their high bytes -> the name by which it takes the low ones."""


def decode_pixels(image: Image.Image) -> None:
    """Decodes an image that was opened from bytes in memory; 16-bit colours are scaled as `to_rgb` scales grey."""
    low = _open_low_bytes(image)
    image.load()
    if low is None:
        return
    high = np.asarray(image)
    bits = significant_bits(256.0 * int(high.max()) + 255)
    if bits < 16:
        low.load()
        colours = high.astype(np.uint16) << 8 | np.asarray(low)
        bits = significant_bits(float(colours.max()))
        image.paste(Image.fromarray((colours >> (bits - 8)).astype(np.uint8)))


def _open_low_bytes(image: Image.Image) -> Image.Image | None:
    """The image opened again, for the low bytes of its 16-bit colours; None where it has no such colours."""
    if image.mode != "RGB" or not isinstance(image, ImageFile.ImageFile) or not isinstance(image.fp, io.BytesIO):
        return None
    name = next((_raw_mode(tile.args) for tile in image.tile), "")
    if name[-4:] not in _OTHER_BYTES:
        return None
    low = Image.open(io.BytesIO(image.fp.getvalue()), formats=(image.format or "",))
    name = name[:-4] + _OTHER_BYTES[name[-4:]]
    low.tile = [
        tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name) for tile in low.tile
    ]
    return low


def _raw_mode(arguments: tuple[Any, ...] | str | None) -> str:
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def to_rgb(image: Image.Image) -> Image.Image:
    """The decoded image in mode RGB, laid on white where it is transparent.

    Values of more than 8 bits are scaled by `significant_bits`, because scanners and microscopes write 10 or 12 bits
    into 16. Floats that don't exceed 1 are scaled by 255.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_deep_grey(image)).convert("RGB")
    if image.mode == "La":  # nothing else converts it with its transparency
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def significant_bits(largest: float) -> int:
    """The bits of the sensor that counts up to `largest`: the fewest of `_DEPTHS` that hold it."""
    needed = math.frexp(largest)[1]
    return next((depth for depth in _DEPTHS if depth >= needed), needed)


def _deep_grey(image: Image.Image) -> np.ndarray:
    """uint8 [H, W] of a grey image of 16-bit or 32-bit integers or floats."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    clear = image.info.get("transparency")
    transparent = values == clear if isinstance(clear, int) else np.zeros(values.shape, dtype=bool)
    if values.dtype == np.int32 and tags and _first(tags.get(_SAMPLE_FORMAT, _UNSIGNED)) == _UNSIGNED:
        values = values.view(np.uint32)  # Pillow has no mode for them
    values = values.astype(np.float64)
    largest = float(np.max(values, where=np.isfinite(values), initial=0.0))
    if image.mode == "F" and largest <= 1:
        values, largest = values * 255, 255.0
    values = np.nan_to_num(values, nan=0.0, posinf=largest, neginf=0.0)
    grey = np.clip(values / 2.0 ** (significant_bits(largest) - 8), 0, 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts 8 bits and fewer
        grey = 255 - grey
    return np.where(transparent, np.uint8(255), grey)


def _first(value: object) -> object:
    return value[0] if isinstance(value, tuple) and value else value
