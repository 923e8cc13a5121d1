"""Features of a whole split: computed once and kept on disk."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from hive.errors import UserError
from hive.probe.datasets.images import LabelledImages
from hive.probe.pixels import pixel_batches
from hive.probe.tower import ProbedTower

VERSION = 1  # raise it when the code gives other features for the same tower
IMAGES_A_PASS = 64
MOST_BAD_SHARE = 0.01
SECONDS_A_LINE = 30.0  # of progress
ARRAYS = ("pooled", "tokens", "bad")


@dataclass(frozen=True, eq=False)
class Features:
    """What the heads read of n images; memory-mapped where it comes from the cache."""

    pooled: np.ndarray
    """fp32 [n, 1 or 2, D]: the mean of the patch tokens, and the class token where there is one."""
    tokens: np.ndarray | None
    """fp16 [n, N, D]: layer-normalised patch tokens, None where they were not asked for."""
    bad: np.ndarray
    """bool [n]: images that can't be read."""


def size_on_disk(tower: ProbedTower, images: int, tokens: bool) -> int:
    """Returns the bytes that the features of this many images take."""
    pooled = 4 * (1 + tower.class_tokens) * tower.width
    return images * (pooled + (2 * tower.patches * tower.width if tokens else 0) + 1)


def all_features(
    tower: ProbedTower,
    splits: Mapping[str, LabelledImages],
    *,
    with_tokens: Collection[str],
    cache: Path | None,
    workers: int,
    say: Callable[[str], None],
) -> dict[str, Features]:
    """Returns the features of each split: read from the cache, or computed and kept there.

    `with_tokens` names the splits whose tokens are kept as well. Where `cache` is None the features stay in memory. A
    cache entry is a folder that is renamed into place when it is complete, so an interrupted run leaves no partial
    entry. Raises `UserError` where the cache's disk has no room for all, or more than 1 % of a split's images, or all
    of them, can't be read. `say` gets each line of progress.
    """
    if cache is None:
        return {
            name: _compute(tower, images, name, name in with_tokens, None, workers, say)
            for name, images in splits.items()
        }
    entries = {name: _entry_path(cache, tower, images, name in with_tokens) for name, images in splits.items()}
    _check_room(
        tower, {name: splits[name] for name, entry in entries.items() if not entry.is_dir()}, with_tokens, cache
    )
    features = {}
    for name, entry in entries.items():
        if entry.is_dir():
            say(f"features of {name}: read from {entry}")
        else:
            with _new_entry(entry) as folder:
                _compute(tower, splits[name], name, name in with_tokens, folder, workers, say)
            say(f"features of {name}: kept in {entry}")
        features[name] = _open_entry(entry, name in with_tokens)
    return features


def _check_room(
    tower: ProbedTower, missing: Mapping[str, LabelledImages], with_tokens: Collection[str], cache: Path
) -> None:
    needed = sum(size_on_disk(tower, len(images), name in with_tokens) for name, images in missing.items())
    place = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"The features of {sum(map(len, missing.values())):,} images take {needed / 1e9:,.1f} GB, but the disk of "
            f"--cache {cache} has {free / 1e9:,.1f} GB free: give a bigger one, add --no-cache-tokens (the tower then "
            "runs in every epoch), or leave attention out of --heads."
        )


def _entry_path(cache: Path, tower: ProbedTower, images: LabelledImages, tokens: bool) -> Path:
    """Returns the folder of the features, present or not; one that has tokens is taken also where none are needed."""
    with_tokens = cache / _entry_key(tower, images, True)
    return with_tokens if tokens or with_tokens.is_dir() else cache / _entry_key(tower, images, False)


def _entry_key(tower: ProbedTower, images: LabelledImages, tokens: bool) -> str:
    parts = [VERSION, tower.fingerprint, images.fingerprint, repr(tower.spec), tokens]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _open_entry(entry: Path, tokens: bool) -> Features:
    try:
        arrays = {
            name: np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ARRAYS
            if tokens or name != "tokens"
        }
    except (OSError, ValueError) as error:
        raise UserError(f"The cached features in {entry} can't be read ({error}): delete that folder.") from error
    return Features(arrays["pooled"], arrays.get("tokens"), np.asarray(arrays["bad"]))


@contextlib.contextmanager
def _new_entry(entry: Path) -> Iterator[Path]:
    """Yields a temporary folder, which is renamed to `entry` when the block succeeds and is deleted when it raises.

    This process locks a file in it. A folder without a live lock was left by a process that was killed, and the next
    run deletes it.
    """
    cache, name = entry.parent, entry.name
    cache.mkdir(parents=True, exist_ok=True)
    for leftover in cache.glob(f".{name}-*"):
        with contextlib.suppress(OSError), (leftover / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
    folder = cache / f".{name}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
            (folder / "lock").unlink()
            try:
                os.rename(folder, entry)
            except OSError:
                if not entry.is_dir():  # otherwise another run has finished first, with the same features
                    raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compute(
    tower: ProbedTower,
    images: LabelledImages,
    split: str,
    tokens: bool,
    folder: Path | None,
    workers: int,
    say: Callable[[str], None],
) -> Features:
    n, cls = len(images), tower.class_tokens

    def allocate(name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        if folder is None:
            return np.zeros(shape, dtype)
        path = folder / f"{name}.npy"
        array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a disk that fills up raises here; writing to the map would be a bus error
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array

    pooled = allocate("pooled", np.float32, (n, 1 + cls, tower.width))
    kept = allocate("tokens", np.float16, (n, tower.patches, tower.width)) if tokens else None
    bad = allocate("bad", np.bool_, (n,))
    plan = [np.arange(start, min(start + IMAGES_A_PASS, n)) for start in range(0, n, IMAGES_A_PASS)]
    last_line = time.monotonic()
    for step, (pixels, unreadable) in enumerate(pixel_batches(images, tower.spec, plan, workers, pin=False)):
        normalised = tower.tokens(pixels)
        pooled[plan[step], 0] = normalised[:, cls:].mean(1).cpu()
        if cls:
            pooled[plan[step], 1] = normalised[:, 0].cpu()
        if kept is not None:
            kept[plan[step]] = normalised[:, cls:].half().cpu()
        for index, reason in unreadable:
            bad[index] = True
            _report_bad(images, index, reason, int(bad.sum()), say)
        if time.monotonic() > last_line + SECONDS_A_LINE:
            last_line = time.monotonic()
            say(f"features of {split}: {min((step + 1) * IMAGES_A_PASS, n):,} of {n:,} images")
    for array in (pooled, kept, bad):
        if isinstance(array, np.memmap):
            array.flush()
    return Features(pooled, kept, bad)


def _report_bad(images: LabelledImages, index: int, reason: str, count: int, say: Callable[[str], None]) -> None:
    """Reports an image that can't be read; raises `UserError` where `count` such images are too many."""
    name = images.names[index]
    if count > max(1, MOST_BAD_SHARE * len(images)) or count == len(images):
        raise UserError(
            f"{count} of {len(images):,} images can't be used, {name} among them ({reason}): repair the set."
        )
    say(f"{name} is no usable image ({reason}): it is not trained on, and counts as wrong in the test")
