"""Decoding: the processors' pixels for good images, one reason for each bad one; augmentation is arithmetic."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from hive.data.images import BadImage, ImageSpec, augment, load
from tests.support.pairs_on_the_spot import encoded

SQUARE = ImageSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "square")
CROP = ImageSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "crop")


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 9 + 2, width // 9 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(50, 35), (35, 51), (32, 32), (20, 90), (333, 250)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pixels_are_those_of_the_processors(size: tuple[int, int], kind: str) -> None:
    data = saved(photo(*size), kind)
    square = {"height": 32, "width": 32}
    clip = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square, do_rescale=False, do_normalize=False)
    siglip = SiglipImageProcessorPil(size=square, do_rescale=False, do_normalize=False)
    for spec, processor in ((CROP, clip), (SQUARE, siglip)):
        expected = processor(Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0].astype(int)
        difference = np.abs(load(data, spec, 64).numpy().astype(int) - expected)
        reduced = kind == "JPEG" and min(size) >= 8 * 32  # decoded at half its size
        assert difference.max() <= (4 if reduced else 1)
        assert difference.mean() < (0.3 if reduced else 0.01)


def test_odd_kinds_of_pixels() -> None:
    grey = Image.new("L", (40, 40), 100)
    red = (200, 10, 10)
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([*red, 0, 0, 0])
    deep = Image.fromarray(np.full((40, 40), 100 * 257, dtype=np.uint16))
    for image, kind, options, expected in (
        (grey, "PNG", {}, (100,) * 3),
        (grey, "JPEG", {}, (100,) * 3),
        (grey.convert("1"), "PNG", {}, None),
        (clear, "PNG", {}, (255,) * 3),
        (clear, "WEBP", {"lossless": True}, (255,) * 3),
        (palette, "PNG", {}, red),
        (palette, "PNG", {"transparency": 0}, (255,) * 3),
        (deep, "PNG", {}, (100,) * 3),
        (Image.new("LA", (40, 40), (0, 0)), "PNG", {}, (255,) * 3),
        (Image.new("RGB", (40, 40), red).convert("CMYK"), "JPEG", {"quality": 100}, red),
    ):
        pixels = load(saved(image, kind, **options), CROP, 64)
        assert pixels.shape == (3, 32, 32)
        assert pixels.dtype == torch.uint8
        if expected:
            assert (pixels.float().mean((1, 2)) - torch.tensor(expected)).abs().max() <= 3, (image.mode, kind)


@pytest.mark.filterwarnings("error")
def test_orientation_is_applied_and_damaged_exif_is_not_fatal() -> None:
    image = Image.new("RGB", (40, 40), "white")
    image.paste((0, 0, 0), (0, 0, 40, 20))  # top half black
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise: the top goes to the right
    pixels = load(saved(image, "JPEG", exif=turned), SQUARE, 64).float()
    assert pixels[:, :, :12].min() > 200
    assert pixels[:, :, 20:].max() < 50
    assert load(saved(image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), SQUARE, 64).shape == (3, 32, 32)


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds nothing of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"GIF89a" + bytes(50), "damaged"),
        (b"<html>404", "HTML"),
        (b"nonsense", "unknown kind"),
        (encoded(0, "JPEG")[:30], "damaged"),
        (saved(photo(400, 300), "JPEG")[:-4000], "cut off"),
        (saved(photo(400, 300), "PNG")[:-4000], "cut off"),
        (saved(photo(400, 300), "WEBP")[:-4000], "damaged"),
        (png_header(100, 100), "damaged"),
        (png_header(30_000, 30_000), "megapixels"),
        (png_header(9_000, 9_000), "9000x9000 pixels, more than 64"),
        (saved(photo(1100, 1000)), "more than 1 megapixels"),
    ],
)
def test_bad_images_give_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        load(data, CROP, 1 if len(data) > 100_000 else 64)


def test_a_long_thin_image_does_not_blow_up() -> None:
    assert load(saved(Image.new("RGB", (60_000, 1), "red"), "PNG"), CROP, 64)[0].min() == 255


def test_augmentation_is_arithmetic_and_never_mirrors() -> None:
    image = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    image[:, 20:44, 4:24] = torch.tensor([200, 30, 30], dtype=torch.uint8)[:, None, None]  # on the left
    first = [augment(image, 3, 1, index) for index in range(40)]
    assert all(torch.equal(a, augment(image, 3, 1, index)) for index, a in enumerate(first))
    others = (augment(image, 3, 1, 40), augment(image, 3, 2, 0), augment(image, 4, 1, 0))
    assert not any(torch.equal(first[0], other) for other in others)
    assert all(a.shape == image.shape and a.dtype == torch.uint8 and a.is_contiguous() for a in first)
    left = sum(float((255 - a.float()[:, :, :32]).sum() - (255 - a.float()[:, :, 32:]).sum()) > 0 for a in first)
    assert left >= 36
