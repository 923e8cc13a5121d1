"""Decodes images safely, resizes them as CLIP's and SigLIP's processors do, and augments them without state."""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP")
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what undoes it
_ORIENTATION = 0x0112
_DRAFT_SPARE = 4  # a JPEG is decoded at reduced size only while it stays this many times larger than the target
_LONGEST = 16  # times the target: images longer than this are cropped before resampling, not after
_LUMA = np.array([0.299, 0.587, 0.114])
Product = TypeVar("Product")


class BadImage(Exception):  # noqa: N818 - not a fault of the program: the sample goes to the ledger
    """An image that can't be used; the message is the reason."""


@dataclass(frozen=True)
class ImageSpec:
    """Size, normalisation and resizing of a tower's input images."""

    size: int
    """Side of the square, pixels."""
    mean: tuple[float, float, float]
    """Subtracted from each channel after scaling to 0..1 (on the device, not here)."""
    std: tuple[float, float, float]
    """Each channel is divided by it."""
    resize: Literal["square", "crop"]
    """square: straight to size x size (SigLIP); crop: shortest edge to size, then the centre (CLIP)."""


class Header(NamedTuple):
    """What an encoded image says in front of its pixels; width and height before EXIF turns it."""

    format: str
    """Pillow's name, such as "JPEG"."""
    mode: str
    """Pillow's name, such as "RGB"."""
    width: int
    height: int


def load(data: bytes, spec: ImageSpec, max_megapixels: float) -> torch.Tensor:
    """Decodes and resizes an encoded JPEG, PNG or WebP image: uint8 [3, size, size].

    Bicubic, EXIF orientation applied, transparency laid on white. Raises `BadImage` for anything else. Also raises it,
    before anything is decoded, when the header gives more than `max_megapixels`.
    """
    return _as_tensor(_read(data, max_megapixels, lambda image: _resize(image, spec)))


def decode(data: bytes, max_megapixels: float) -> Image.Image:
    """Decodes the same formats to an RGB image at its original size; raises `BadImage` as `load` does."""
    return _read(data, max_megapixels, _upright)


def read_header(data: bytes, max_megapixels: float) -> Header:
    """The header alone, with nothing decoded; raises `BadImage` where it shows that `load` would."""
    return _read(data, max_megapixels, lambda image: Header(image.format or "", image.mode, *image.size))


def _read(data: bytes, max_megapixels: float, process: Callable[[Image.Image], Product]) -> Product:
    if not data:
        raise BadImage("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about metadata and sizes; the ledger needs only the reason
        image = _open(data, max_megapixels)
        try:
            return process(image)
        except Exception as error:  # damaged data makes Pillow raise almost anything
            raise BadImage(f"damaged or cut off ({error!s:.120})") from None


def fit(image: Image.Image, spec: ImageSpec) -> torch.Tensor:
    """Resizes an opened image as `load` does: uint8 [3, size, size]."""
    return _as_tensor(_resize(image, spec))


def _as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    turn = _TURN.get(_orientation(image))
    image = _rgb(image)
    return image if turn is None else image.transpose(turn)


def _open(data: bytes, max_megapixels: float) -> Image.Image:
    """The image with its header read and nothing decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        limit = min(max_megapixels, 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6)  # Pillow has a limit too
        raise BadImage(f"more than {limit:g} megapixels") from None
    except Exception as error:
        kind = _kind(data)
        raise BadImage(
            f"is {kind}, not a JPEG, PNG or WebP image" if kind else f"damaged header ({error!s:.120})"
        ) from None
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise BadImage(f"{width}x{height} pixels, more than {max_megapixels:g} megapixels")
    return image


def _kind(data: bytes) -> str | None:
    """The kind of a refused file by its first bytes; None for a damaged image of an allowed format."""
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return None
    known = (
        (b"GIF8", "a GIF"),
        (b"BM", "a BMP"),
        (b"II*\0", "a TIFF"),
        (b"MM\0*", "a TIFF"),
        (b"%PDF", "a PDF"),
        (b"<svg", "an SVG"),
        (b"<", "an HTML or XML text"),
        (b"\0\0\0", "an AVIF, HEIC or video file"),
    )
    return next((name for magic, name in known if data.lstrip().startswith(magic)), "of an unknown kind")


def _resize(image: Image.Image, spec: ImageSpec) -> Image.Image:
    size, (width, height) = spec.size, image.size
    box = (0.0, 0.0, float(width), float(height))
    if image.format == "JPEG" and (drafted := image.draft("", (_DRAFT_SPARE * size, _DRAFT_SPARE * size))):
        box = drafted[1]  # in fractions of a pixel: where an odd side was halved, the last pixel counts half
    image.load()
    turn = _TURN.get(_orientation(image))
    image = _rgb(image)
    if spec.resize == "square":
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    else:
        image = _shortest_edge_and_crop(image, box, width, height, size)
    return image if turn is None else image.transpose(turn)


def _shortest_edge_and_crop(
    image: Image.Image, box: tuple[float, float, float, float], width: int, height: int, size: int
) -> Image.Image:
    short = min(width, height)
    wide, high = (size if side == short else int(size * side / short) for side in (width, height))
    left, top = (wide - size) // 2, (high - size) // 2
    if max(wide, high) <= _LONGEST * size:
        return image.resize((wide, high), Image.Resampling.BICUBIC, box=box).crop((left, top, left + size, top + size))
    x, y = box[2] / wide, box[3] / high  # a 1 x 60,000 image would become too large: resample only the kept part
    part = (left * x, top * y, min(box[2], (left + size) * x), min(box[3], (top + size) * y))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=part)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata is no reason to lose the picture
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def augment(image: torch.Tensor, seed: int, epoch: int, index: int) -> torch.Tensor:
    """A random variant of a uint8 [3, H, W] image, a function of (seed, epoch, index) alone.

    Zoom, stretch, rotation and shift in one resampling with white around; brightness, contrast, saturation, channel
    mixing and sometimes greyscale in one linear map. Never mirrored: captions say left and right.
    """
    key = np.array([seed & (2**64 - 1), ((epoch << 40) ^ index) & (2**64 - 1)], dtype=np.uint64)
    u = np.random.Generator(np.random.Philox(key=key)).random(17)
    s = (2 * u - 1).tolist()
    height, width = image.shape[1:]

    # Output pixel (x, y) shows the input at A (x - centre) + centre + shift; a window below 1 zooms in.
    window = 0.9 + 0.2 * s[0]
    stretch = math.exp(0.12 * s[1])
    angle = math.radians(12 * s[2])
    room = 0.06 + max(0.0, 1 - window) / 2
    cosine, sine = math.cos(angle) * window, math.sin(angle) * window
    a, b, d, e = cosine * stretch, sine * stretch, -sine / stretch, cosine / stretch
    c = (0.5 + room * s[3]) * width - a * width / 2 - b * height / 2
    f = (0.5 + room * s[4]) * height - d * width / 2 - e * height / 2
    picture = Image.fromarray(np.ascontiguousarray(image.numpy().transpose(1, 2, 0)))
    moved = picture.transform(
        (width, height),
        Image.Transform.AFFINE,
        (a, b, c, d, e, f),
        Image.Resampling.BILINEAR,
        fillcolor=(255, 255, 255),
    )

    # Colours are columns [3, H*W], so one 3 x 3 matrix and one offset make the whole colour jitter.
    mix = np.eye(3) + 0.12 * (2 * u[8:] - 1).reshape(3, 3)
    mix /= mix.sum(1, keepdims=True)  # grey stays grey
    saturation = 0.0 if u[5] < 0.15 else 0.4 + 1.2 * (u[5] - 0.15) / 0.85
    colour = (saturation * np.eye(3) + (1 - saturation) * _LUMA) @ mix
    brightness, contrast = 1 + 0.3 * s[6], 1 + 0.25 * s[7]
    pixels = np.asarray(moved).reshape(-1, 3).T.astype(np.float32)
    offset = float(pixels.mean()) * brightness * (1 - contrast) + 0.5  # contrast turns around the mean
    pixels = (colour * (brightness * contrast)).astype(np.float32) @ pixels
    pixels += np.float32(offset)
    np.clip(pixels, 0, 255, out=pixels)
    return torch.from_numpy(pixels.astype(np.uint8).reshape(3, height, width))
