"""Tokens against transformers' own forward; the cache against kills, full disks and bad images."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hive.errors import UserError
from hive.probe import features
from hive.probe.datasets import open_dataset
from hive.probe.datasets.images import LabelledImages, from_array
from hive.probe.features import Features, all_features
from hive.probe.tower import ProbedTower
from tests.support.layouts import MADE, picture, write
from tests.support.tiny_towers import shades, tiny_tower

IMAGES = from_array(*shades(10, 0), "a")


def compute(tower: ProbedTower, images: LabelledImages, cache: Path | None, said: list[str] | None = None) -> Features:
    found = all_features(
        tower,
        {"test": images},
        with_tokens=["test"],
        cache=cache,
        workers=0,
        say=(said if said is not None else []).append,
    )
    return found["test"]


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("layer", [None, 0, 1, 3])
def test_tokens_are_normalised_hidden_states(family: str, layer: int | None) -> None:
    model = tiny_tower(family)
    tower = ProbedTower(model, layer)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tower.spec.mean, tower.spec.std))
    with torch.no_grad():
        out = model(pixel_values=(pixels / 255 - mean) / std, output_hidden_states=True)
    hidden = out.hidden_states[2 if layer is None else layer]  # of three layers, the last but one
    expected = (hidden - hidden.mean(2, keepdim=True)) / (
        hidden.var(2, unbiased=False, keepdim=True) + tower.eps
    ).sqrt()
    torch.testing.assert_close(tower.tokens(pixels), expected, rtol=1e-4, atol=1e-4)
    assert tower.class_tokens == (family == "clip")


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(UserError, match="hidden states 0 to 3"):
        ProbedTower(tiny_tower(), 4)


def test_features_are_those_of_the_tower(tmp_path: Path) -> None:
    tower = ProbedTower(tiny_tower())
    pixels = torch.stack([IMAGES.pixels(index, tower.spec) for index in range(10)])
    tokens = tower.tokens(pixels).numpy()
    for cache in (None, tmp_path):
        found = compute(tower, IMAGES, cache)
        assert found.tokens is not None
        np.testing.assert_allclose(found.tokens, tokens[:, 1:], atol=2e-3)
        np.testing.assert_allclose(found.pooled[:, 0], tokens[:, 1:].mean(1), atol=1e-6)
        np.testing.assert_allclose(found.pooled[:, 1], tokens[:, 0], atol=1e-6)
        assert not found.bad.any()


def tower_that_raises(error: type[BaseException]) -> ProbedTower:
    """`tiny_tower()`, whose first run raises the error."""

    def fail(*_: object) -> None:
        raise error

    model = tiny_tower()
    model.embeddings.register_forward_pre_hook(fail)
    return ProbedTower(model)


def test_a_second_run_reads_the_first_ones(tmp_path: Path) -> None:
    said: list[str] = []
    first = compute(ProbedTower(tiny_tower()), IMAGES, tmp_path, said)
    assert "kept in" in said[-1]
    second = compute(tower_that_raises(AssertionError), IMAGES, tmp_path, said)
    assert "read from" in said[-1]
    assert np.array_equal(first.pooled, second.pooled)
    assert len(list(tmp_path.iterdir())) == 1
    all_features(
        ProbedTower(tiny_tower()), {"test": IMAGES}, with_tokens=[], cache=tmp_path, workers=0, say=said.append
    )
    assert "read from" in said[-1]
    # another tower, layer or set of images is another entry
    for tower, images in (
        (ProbedTower(tiny_tower(seed=1)), IMAGES),
        (ProbedTower(tiny_tower(), 1), IMAGES),
        (ProbedTower(tiny_tower()), from_array(*shades(10, 2), "a")),
    ):
        compute(tower, images, tmp_path, said)
        assert "kept in" in said[-1]
    assert len(list(tmp_path.iterdir())) == 4


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compute(tower_that_raises(KeyboardInterrupt), IMAGES, tmp_path)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import fcntl, os, signal, sys
from pathlib import Path
folder = Path(sys.argv[1]); folder.mkdir()
(folder / "pooled.npy").write_bytes(b"half")
lock = (folder / "lock").open("w"); fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
signal.pause()
"""


def test_what_a_kill_has_left_goes_and_what_another_run_writes_stays(tmp_path: Path) -> None:
    tower = ProbedTower(tiny_tower())
    name = features._entry_key(tower, IMAGES, True)
    left = tmp_path / f".{name}-0123abcd"
    other = subprocess.Popen([sys.executable, "-c", KILLED, str(left)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"locked\n"
    try:
        compute(tower, IMAGES, tmp_path)
        assert left.exists()
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    for entry in tmp_path.glob("[!.]*"):
        entry.rename(tmp_path / "elsewhere")
    compute(tower, IMAGES, tmp_path)
    assert not left.exists()


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "size_on_disk", lambda *_: 10**18)
    with pytest.raises(UserError, match=r"take 1,000,000,000\.0 GB, but the disk of --cache .* --no-cache-tokens"):
        compute(ProbedTower(tiny_tower()), IMAGES, tmp_path / "new" / "cache")
    assert list(tmp_path.iterdir()) == []


def test_size_on_disk_is_what_is_written(tmp_path: Path) -> None:
    tower = ProbedTower(tiny_tower())
    compute(tower, IMAGES, tmp_path)
    written = sum(path.stat().st_size - 128 for path in tmp_path.glob("*/*.npy"))  # 128: a .npy file's header
    assert written == features.size_on_disk(tower, len(IMAGES), True)


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    tower = ProbedTower(tiny_tower())
    compute(tower, IMAGES, tmp_path)
    next(tmp_path.glob("*/pooled.npy")).write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="delete that folder"):
        compute(tower, IMAGES, tmp_path)


def test_bad_images(tmp_path: Path) -> None:
    MADE["folder"](tmp_path)
    data = open_dataset("folder", tmp_path)
    (tmp_path / data.train.names[3]).write_bytes(b"GIF89a")
    said: list[str] = []
    found = compute(ProbedTower(tiny_tower()), data.train, None, said)
    assert np.flatnonzero(found.bad).tolist() == [3]
    assert f"{data.train.names[3]} is no usable image (damaged header of a GIF" in said[0]
    write(tmp_path / data.train.names[4], picture(0)[:40])
    with pytest.raises(UserError, match="2 of 14 images can't be used"):
        compute(ProbedTower(tiny_tower()), data.train, None)
    with pytest.raises(UserError, match="1 of 1 images can't be used"):  # nothing would be left
        compute(ProbedTower(tiny_tower()), data.train.take([3]), None)
