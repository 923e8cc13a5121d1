"""Decodes images safely, resizes them as CLIP's and SigLIP's processors do, and augments them without state."""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import PIL
import torch
from PIL import Image, features

from hive.data.colour import decode_pixels, to_rgb

EXTENSIONS = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif")
)
"""What the names of image files end in. What a file is, its first bytes say."""
FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIF"
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


_TILE_SIDES = (322, 323)  # TIFF tags


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
    """Decodes and resizes an encoded image, of several frames the first: uint8 [3, size, size].

    Bicubic, EXIF orientation applied, transparency laid on white. What a file is, its first bytes say, and only
    Pillow's reader of that format sees it. Raises `BadImage` for what is none of `FORMATS`. Also raises it, before
    anything is decoded, when the header gives more than `max_megapixels`.
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
    decode_pixels(image)
    turn = _TURN.get(_orientation(image))
    image = to_rgb(image)
    return image if turn is None else image.transpose(turn)


class _Kind(NamedTuple):
    """What the first bytes of a file say that it is."""

    start: bytes
    words: str
    format: str | None = None
    """Pillow's name of the format; None: it is refused."""


_KINDS = (
    _Kind(b"\xff\xd8\xff", "a JPEG", "JPEG"),
    _Kind(b"\x89PNG\r\n\x1a\n", "a PNG", "PNG"),
    _Kind(b"GIF8", "a GIF", "GIF"),
    _Kind(b"BM", "a BMP", "BMP"),
    _Kind(b"II*\0", "a TIFF", "TIFF"),
    _Kind(b"MM\0*", "a TIFF", "TIFF"),
    _Kind(b"II+\0", "a TIFF", "TIFF"),
    _Kind(b"MM\0+", "a TIFF", "TIFF"),
    _Kind(b"%PDF", "a PDF"),
    _Kind(b"%!PS", "a PostScript file"),
    _Kind(b"8BPS", "a Photoshop file"),
    _Kind(b"\0\0\0\x0cjP", "a JPEG 2000"),
    _Kind(b"\0\0\0\x0cJXL", "a JPEG XL"),
    _Kind(b"<svg", "an SVG"),
    _Kind(b"<", "an HTML or XML text"),
)
_WEBP, _AVIF, _HEIF = _Kind(b"", "a WebP", "WEBP"), _Kind(b"", "an AVIF", "AVIF"), _Kind(b"", "a HEIF", "HEIF")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def _kind(data: bytes) -> _Kind:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _WEBP
    if data[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
        brands = {box[:4], *(box[place : place + 4] for place in range(8, len(box), 4))}
        if brands & {b"avif", b"avis"}:
            return _AVIF
        return _HEIF if brands & _HEIF_BRANDS else _Kind(b"", "a video")
    start = data[:64].lstrip()
    return next((kind for kind in _KINDS if (start if kind.format is None else data).startswith(kind.start)),
                _Kind(b"", "of an unknown kind"))  # fmt: skip


@cache
def _missing_reader(format: str) -> str | None:
    """What is needed to read images of a format; None: nothing, it can be read."""
    if format == "AVIF" and not features.check("avif"):
        return f"this Pillow ({PIL.__version__}) can't read: install Pillow 11.3 or newer, with AVIF"
    if format == "HEIF":
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            return "needs pillow-heif: pip install 'hive-pretraining[heif]'"
        register_heif_opener()
    return None


def _open(data: bytes, max_megapixels: float) -> Image.Image:
    """The image with its header read and nothing decoded."""
    kind = _kind(data)
    if kind.format is None:
        raise BadImage(f"is {kind.words}, none of {FORMATS}")
    if (missing := _missing_reader(kind.format)) is not None:
        raise BadImage(f"is {kind.words} image, which {missing}")
    try:
        image = Image.open(io.BytesIO(data), formats=(kind.format,))
    except Image.DecompressionBombError:
        limit = min(max_megapixels, 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6)  # Pillow has a limit too
        raise BadImage(f"more than {limit:g} megapixels") from None
    except Image.UnidentifiedImageError:  # its message has the address of an object
        raise BadImage(f"damaged header of {kind.words}") from None
    except Exception as error:
        raise BadImage(f"damaged header of {kind.words} ({error!s:.120})") from None
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise BadImage(f"{width}x{height} pixels, more than {max_megapixels:g} megapixels")
    sides = [getattr(image, "tag_v2", {}).get(tag, 0) for tag in _TILE_SIDES]
    if math.prod(sides) > max_megapixels * 1e6:  # a tile is decoded whole
        raise BadImage(f"tiles of {sides[0]}x{sides[1]} pixels, more than {max_megapixels:g} megapixels")
    return image


def _resize(image: Image.Image, spec: ImageSpec) -> Image.Image:
    size, (width, height) = spec.size, image.size
    box = (0.0, 0.0, float(width), float(height))
    if image.format == "JPEG" and (drafted := image.draft("", (_DRAFT_SPARE * size, _DRAFT_SPARE * size))):
        box = drafted[1]  # in fractions of a pixel: where an odd side was halved, the last pixel counts half
    decode_pixels(image)
    turn = _TURN.get(_orientation(image))
    image = to_rgb(image)
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
