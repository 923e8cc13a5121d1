"""Every format and mode of pixels, against numpy or Pillow's own plain decoding; hostile files are refused."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin, features

from hive.data import images
from hive.data.images import BadImage, ImageSpec, decode, load

SPEC = ImageSpec(16, (0.5,) * 3, (0.5,) * 3, "square")
COARSE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
PHOTO = Image.fromarray(COARSE).resize((48, 36), Image.Resampling.BICUBIC)
HAS_AVIF = "avif" in features.modules and features.check("avif")
avif = pytest.mark.skipif(not HAS_AVIF, reason="this Pillow has no AVIF")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """int [H, W, 3]."""
    return np.asarray(decode(data, 64)).astype(int)


def png(values: np.ndarray) -> bytes:
    """A 16-bit PNG of [H, W] grey or [H, W, 3] colours, which Pillow can't write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if values.ndim == 2 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, photometric: int = 1, sample_format: int = 1, **more: int) -> bytes:
    """An uncompressed TIFF of [H, W] or [H, W, 3] numbers as they are; `more` are tags, t322=64."""
    order = {"<": "<", ">": ">", "|": "<", "=": "<"}[values.dtype.byteorder]
    height, width = values.shape[:2]
    samples = 1 if values.ndim == 2 else values.shape[2]
    tags = {256: width, 257: height, 258: -1, 259: 1, 262: photometric, 273: -2, 277: samples, 278: height,
            279: values.nbytes, 339: -3} | {int(name[1:]): value for name, value in more.items()}  # fmt: skip
    end = 8 + 2 + 12 * len(tags) + 4
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    for tag, value in sorted(tags.items()):
        if value in (-1, -3):  # one number a sample
            each = values.itemsize * 8 if value == -1 else sample_format
            place = end if value == -1 else end + 2 * samples
            out += struct.pack(order + "HHI", tag, 3, samples)
            out += struct.pack(order + "I", place) if samples > 2 else struct.pack(order + "HH", each, each)
        else:
            out += struct.pack(order + "HHII", tag, 4, 1, end + 4 * samples if value == -2 else value)
    lists = struct.pack(f"{order}{2 * samples}H", *[values.itemsize * 8] * samples, *[sample_format] * samples)
    return out + struct.pack(order + "I", 0) + lists + values.tobytes()


@pytest.mark.parametrize(
    ("kind", "options", "allowed"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_deflate", "big_tiff": True}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 12),
        ("WEBP", {"lossless": True}, 0),
        ("GIF", {}, 40),
        ("MPO", {"quality": 95}, 12),
        ("JPEG", {"quality": 95}, 12),
        pytest.param("AVIF", {"quality": 95}, 12, marks=avif),
        ("HEIF", {"quality": 95, "chroma": 444}, 12),
    ],
)
def test_formats(kind: str, options: dict[str, object], allowed: int) -> None:
    data = saved(PHOTO, kind, **options)
    assert np.abs(pixels(data) - np.asarray(PHOTO).astype(int)).mean() <= allowed / 2
    assert load(data, SPEC, 64).shape == (3, 16, 16)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO", pytest.param("AVIF", marks=avif), "HEIF"])
def test_the_first_of_several_frames(kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ((200, 10, 10), (10, 200, 10))]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(pixels(data) - np.array([200, 10, 10])).max() <= 4


def test_a_gif_on_a_larger_canvas_and_transparent() -> None:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 200, 10, 10, 0, 0, 0])
    image.paste(0, (0, 0, 10, 20))
    read = pixels(saved(image, "GIF", transparency=0))
    assert (read[:, :10] == 255).all()
    assert (read[:, 10:] == [200, 10, 10]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=avif), "HEIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation(kind: str, orientation: int) -> None:
    image = Image.new("RGB", (40, 64), "white")
    image.paste((0, 0, 0), (0, 0, 40, 32))  # the upper half is black
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image, kind, exif=exif.tobytes())
    upright = {1: image, 3: image.rotate(180), 6: image.rotate(-90, expand=True), 8: image.rotate(90, expand=True)}
    expected = np.asarray(upright[orientation]).astype(int)
    assert pixels(data).shape == expected.shape
    assert np.abs(pixels(data) - expected).mean() < 8  # older HEIF encoders spoil single pixels
    square = np.asarray(upright[orientation].resize((16, 16), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(load(data, SPEC, 64).numpy().transpose(1, 2, 0).astype(int) - square).mean() < 8


def with_bits(bits: int, shape: tuple[int, ...] = (20, 24)) -> np.ndarray:
    """Random numbers, the largest of which needs exactly so many bits."""
    values = np.random.default_rng(bits).integers(0, 1 << bits, shape, dtype=np.uint32)
    values.flat[0] = (1 << bits) - 1
    return values


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 10, 12, 14, 15, 16])
def test_few_bits_in_16_are_scaled(bits: int) -> None:
    values = with_bits(bits).astype(np.uint16)
    shift = bits + bits % 2 - 8 if bits > 8 else 0  # sensors have 8, 10, 12, 14 or 16 bits
    expected = np.repeat((values >> shift)[..., None], 3, axis=2)
    assert (pixels(png(values)) == expected).all()
    for order in "<>":
        assert (pixels(tiff(values.astype(f"{order}u2"))) == expected).all()
    colours = with_bits(bits, (20, 24, 3)).astype(np.uint16)
    for data in (png(colours), tiff(colours.astype("<u2"), 2), tiff(colours.astype(">u2"), 2)):
        assert (pixels(data) == colours >> shift).all()
        turned = np.asarray(Image.fromarray((colours >> shift).astype(np.uint8)).resize((16, 16), 3))
        assert (load(data, SPEC, 64).numpy().transpose(1, 2, 0) == turned).all()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff(with_bits(12).astype("<u2"), photometric=0), 255 - (with_bits(12) >> 4)),
        (tiff(with_bits(24).astype("<u4")), with_bits(24) >> 16),
        (tiff(with_bits(32).astype("<u4")), with_bits(32) >> 24),
        (tiff(with_bits(31).astype("<i4"), sample_format=2), with_bits(31) >> 24),
        (tiff(with_bits(15).astype("<i2") - 9, sample_format=2), np.clip(with_bits(15).astype(int) - 9, 0, None) >> 8),
        (tiff((with_bits(8) / 255).astype("<f4"), sample_format=3), with_bits(8)),
        (tiff(with_bits(8).astype("<f4"), sample_format=3), with_bits(8)),
        (tiff(with_bits(11).astype("<f4"), sample_format=3), with_bits(11) >> 4),
    ],
)
def test_deep_tiffs(data: bytes, expected: np.ndarray) -> None:
    assert np.abs(pixels(data) - expected[..., None]).max() <= (1 if expected.dtype == np.uint32 else 0)


def test_floats_that_are_no_numbers() -> None:
    values = np.array([[0, 0.5, 1, np.nan], [np.inf, -np.inf, -3, 0.25]], dtype="<f4")
    assert pixels(tiff(values, sample_format=3))[..., 0].tolist() == [[0, 127, 255, 0], [255, 0, 0, 63]]
    assert pixels(tiff(np.full((4, 4), np.nan, dtype="<f4"), sample_format=3)).max() == 0


ALPHA = Image.linear_gradient("L").resize(PHOTO.size)


def blended(image: Image.Image) -> np.ndarray:
    """An RGBA image on white, by the formula."""
    values = np.asarray(image).astype(float)
    return values[..., :3] * values[..., 3:] / 255 + 255 - values[..., 3:]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_modes_without_transparency(mode: str) -> None:
    image = PHOTO.convert(mode)
    expected = np.asarray(image.convert("RGB")).astype(int)
    for kind in ("TIFF", "PNG") if mode in ("1", "L", "P", "RGB") else ("TIFF",):
        assert np.abs(pixels(saved(image, kind)) - expected).max() <= 1


def test_lab() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(PHOTO, srgb, lab, outputMode="LAB")
    assert image is not None
    assert np.abs(pixels(saved(image, "TIFF")) - np.asarray(PHOTO).astype(int)).mean() < 3


def test_modes_with_transparency() -> None:
    colours, grey, palette = PHOTO.copy(), PHOTO.convert("LA"), PHOTO.convert("P").convert("PA")
    for image in (colours, grey, palette):
        image.putalpha(ALPHA)
        kind = "TIFF" if image is palette else "PNG"
        assert np.abs(pixels(saved(image, kind)) - blended(image.convert("RGBA"))).max() <= 1.5, image.mode
    if any(mode == "La" for mode, _ in TiffImagePlugin.OPEN_INFO.values()):  # from Pillow 11.3 on
        premultiplied = np.asarray(grey.convert("La"))
        assert np.abs(pixels(tiff(premultiplied, t338=1)) - blended(grey.convert("RGBA"))).max() <= 2
    premultiplied = np.asarray(colours.convert("RGBa"))
    assert np.abs(pixels(tiff(premultiplied, 2, t338=1)) - blended(colours)).max() <= 2


def test_palettes_and_colours_that_are_transparent() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([10, 20, 30, 200, 10, 10])
    assert (pixels(saved(palette, "PNG", transparency=bytes([255, 0]))) == 255).all()
    assert (pixels(saved(Image.new("RGB", (8, 8), (7, 8, 9)), "PNG", transparency=(7, 8, 9))) == 255).all()
    assert (pixels(saved(Image.new("L", (8, 8), 7), "PNG", transparency=7)) == 255).all()


def test_a_grey_value_of_16_bits_that_is_transparent() -> None:
    values = np.array([[500, 4095], [500, 0]], dtype=np.uint16)
    clear = struct.pack(">H", 500)
    chunk = struct.pack(">I", 2) + b"tRNS" + clear + struct.pack(">I", zlib.crc32(b"tRNS" + clear))
    data = png(values)
    place = data.index(b"IDAT") - 4
    assert pixels(data[:place] + chunk + data[place:])[..., 0].tolist() == [[255, 255], [255, 0]]


def test_printers_jpegs() -> None:
    """Adobe's inverted CMYK, as Pillow writes it, and the same pixels as YCCK."""
    data = saved(PHOTO.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(pixels(data) - np.asarray(PHOTO).astype(int)).mean() < 4
    marker = data.index(b"Adobe") + 11  # the transform: 0 is CMYK, 2 is YCCK
    assert data[marker] == 0
    ycck = data[:marker] + b"\2" + data[marker + 1 :]
    plain = np.asarray(Image.open(io.BytesIO(ycck)).convert("RGB")).astype(int)
    assert np.abs(pixels(ycck) - plain).max() <= 1
    assert np.abs(plain - pixels(data)).mean() > 20  # it was read as another space


def bombs() -> dict[str, bytes]:
    gif = bytearray(saved(Image.new("P", (20, 20)), "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    small = np.zeros((10, 10), dtype="<u2")
    bmp = bytearray(saved(PHOTO, "BMP"))
    bmp[18:26] = struct.pack("<ii", 30_000, 30_000)
    return {
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "tiff": tiff(small, t256=60_000, t257=60_000),
        "tiff tiles": tiff(small, t322=60_000, t323=60_000, t324=200, t325=200),
    }


@pytest.mark.parametrize("name", list(bombs()))
def test_bombs_are_refused_by_their_header(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(images, "decode_pixels", decoded)
    with pytest.raises(BadImage, match="megapixels"):
        load(bombs()[name], SPEC, 64)


@pytest.mark.skipif(sys.platform != "linux", reason="it reads the process's largest size")
def test_strips_that_lie_take_no_memory() -> None:
    """Strips of 4 GB in a file of 300 bytes, with and without compression."""
    import resource

    values = np.zeros((10, 10), dtype="<u2")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for compression in (1, 5, 8, 7):
        for rows in (10, 2**31):
            with pytest.raises(BadImage):
                load(tiff(values, t259=compression, t278=rows, t279=2**32 - 1)[:-60], SPEC, 64)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\xd7\xcd\xc6\x9a" + bytes(60), "unknown kind"),  # WMF
        (b"8BPS\0\1" + bytes(40), "Photoshop"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "a video"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        (b"\n  <svg xmlns='x'/>", "SVG"),
    ],
)
def test_what_else_pillow_could_open_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadImage, match=words):
        load(data, SPEC, 64)


def test_formats_that_this_installation_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(PHOTO, "AVIF") if HAS_AVIF else b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(40)
    images._missing_reader.cache_clear()
    monkeypatch.setattr(images.features, "check", lambda name: False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImage, match=r"an AVIF image, which this Pillow \(.*\) can't read: install Pillow 11.3"):
        load(data, SPEC, 64)
    with pytest.raises(
        BadImage, match=r"a HEIF image, which needs pillow-heif: pip install 'hive-pretraining\[heif\]'"
    ):
        load(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), SPEC, 64)
    monkeypatch.undo()
    images._missing_reader.cache_clear()


def test_damaged_files_of_every_format_give_a_reason() -> None:
    """Cut at many lengths and with bytes changed: a picture or `BadImage`, nothing else."""
    random, reasons = np.random.default_rng(3), 0
    for kind in ("GIF", "BMP", "TIFF", "WEBP", "HEIF", *(("AVIF",) if HAS_AVIF else ())):
        whole = np.frombuffer(saved(PHOTO, kind), dtype=np.uint8)
        for _ in range(25):
            damaged = whole[: random.integers(1, len(whole))].copy()
            damaged[random.integers(0, len(damaged), 4)] ^= random.integers(1, 256, 4, dtype=np.uint8)
            try:
                load(damaged.tobytes(), SPEC, 64)
            except BadImage:
                reasons += 1
    assert reasons
