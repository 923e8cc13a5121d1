"""Pictures, archives and captions made on the spot, and equality of batches."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CAPTIONS = [
    f"a {colour} {shape} on the {side}"
    for colour in ("red", "green", "blue")
    for shape in ("disc", "box", "star")
    for side in ("left", "right")
]


def encoded(number: int, kind: str = "PNG", size: tuple[int, int] = (20, 16)) -> bytes:
    """A picture of its own for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes | str) -> None:
    data = data.encode() if isinstance(data, str) else data
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
    archive.addfile(member, io.BytesIO(data))


def shard(path: Path, members: dict[str, bytes | str]) -> Path:
    """Writes a .tar file of these members."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            add(archive, name, data)
    return path


def same(a: object, b: object) -> bool:
    """Whether two batches are equal to the bit."""
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )
