"""Batches from worker processes, each a function of (seed, step) alone.

Workers are forked from a fork server, a process without CUDA, the model and the main process's threads. The server and
the workers ignore the signals that ask the main process to save. A worker ends when the main process ends, however that
dies.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from hive.config import DataConfig
from hive.data.images import BadImage, ImageSpec, augment, load
from hive.data.order import indices, rounds, share
from hive.data.pairs import Pairs, hash_order
from hive.data.shared_texts import SharedTexts
from hive.data.text import BadSample, BadText, Batch, Encoder

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
_PIXELS_WORTH_WORKERS = 100_000_000  # an evaluation that decodes fewer is over before workers have started


@dataclass(frozen=True)
class _Source:
    """Makes the image and the encoded text of a pair from its index."""

    pairs: Pairs
    tokenizer: Encoder
    spec: ImageSpec
    max_text_tokens: int
    max_megapixels: float

    def image(self, index: int) -> torch.Tensor | None:
        """uint8 [3, H, W]; None for a pair without an image. Raises `BadImage`."""
        if not self.pairs.has_image(index):
            return None
        return load(read_image(self.pairs, index), self.spec, self.max_megapixels)

    def encode(self, text: str) -> Any:
        """The encoded text. Raises `BadText`."""
        return self.tokenizer.encode(text, self.max_text_tokens)


def read_image(pairs: Pairs, index: int) -> bytes:
    """The encoded image of a pair. Raises `BadImage` where it can't be read."""
    try:
        return pairs.read(index)
    except OSError as error:
        raise BadImage(f"can't be read ({error.strerror or error!s:.120})") from None


@dataclass(frozen=True)
class _Training(Dataset):
    """Item k is micro-batch k of this rank, counted from the first step."""

    source: _Source
    seed: int
    batch_size: int
    per_step: int
    """Micro-batches of one rank in one step."""
    first_step: int
    steps: int
    rank: int
    world: int
    augment: bool

    def __len__(self) -> int:
        return self.steps * self.per_step

    def __getitem__(self, item: int) -> Batch:
        step, j = divmod(item, self.per_step)
        first, size = share(self.batch_size, j * self.world + self.rank, self.per_step * self.world)
        start = (self.first_step + step) * self.batch_size + first
        samples: list[tuple[torch.Tensor | None, Any]] = []
        bad: list[BadSample] = []
        for epoch, index in indices(self.source.pairs.stream, self.seed, start, size):
            try:
                image = self.source.image(index)
                text = self.source.encode(self.source.pairs.caption(index, epoch))
            except (BadImage, BadText) as error:
                bad.append((index, self.source.pairs.name(index), str(error)))
                continue
            if self.augment and image is not None:
                image = augment(image, self.seed, epoch, index)
            samples.append((image, text))
        return self.source.tokenizer.pack(samples, bad)


@dataclass(frozen=True)
class _HeldOut(Dataset):
    """Item k is (right images, wrong images) of micro-batch k."""

    source: _Source
    couples: list[tuple[int, int]]  # (pair, pair whose image is the wrong one)
    micro: int

    def __len__(self) -> int:
        return -(-len(self.couples) // self.micro)

    def __getitem__(self, item: int) -> tuple[Batch, Batch]:
        samples: list[tuple[torch.Tensor | None, Any]] = []
        wrong: list[torch.Tensor] = []
        bad: list[BadSample] = []
        for couple in self.couples[item * self.micro : (item + 1) * self.micro]:
            images = []
            for index in couple:
                try:
                    images.append(self.source.image(index))
                except BadImage as error:
                    bad.append((index, self.source.pairs.name(index), str(error)))
            if len(images) < 2:
                continue
            try:
                samples.append((images[0], self.source.encode(self.source.pairs.captions[couple[0]])))
            except BadText as error:
                bad.append((couple[0], self.source.pairs.name(couple[0]), str(error)))
                continue
            assert images[1] is not None, "held-out pairs have images"
            wrong.append(images[1])
        right = self.source.tokenizer.pack(samples, bad)
        return right, replace(right, pixels=torch.stack(wrong) if wrong else right.pixels)


def batches(
    pairs: Pairs,
    tokenizer: Encoder,
    spec: ImageSpec,
    config: DataConfig,
    *,
    seed: int,
    batch_size: int,
    micro_batch_size: int,
    first_step: int,
    steps: int,
    rank: int = 0,
    world: int = 1,
    augment: bool | None = None,
    pin: bool = False,
) -> Generator[list[Batch], None, None]:
    """This rank's micro-batches of `steps` optimiser steps from `first_step` on, one list a step.

    Step s covers positions [s * batch_size, (s + 1) * batch_size) of the endless stream of passes over the pairs. They
    are divided into as few parts of nearly equal size, in the same number for each rank, as none has more than
    `micro_batch_size` samples; micro-batch j of rank r is part j * world + r. Nothing depends on `config.workers` or on
    where a run was resumed. Bad samples are left out and listed in `Batch.bad`. `augment` overrides `config.augment`.
    Close the iterator where it is not read to its end: that ends the workers, without which the program does not end.
    """
    per_step = rounds(batch_size, micro_batch_size, world)
    source = _make_source(pairs, tokenizer, spec, config)
    dataset = _Training(
        source,
        seed,
        batch_size,
        per_step,
        first_step,
        steps,
        rank,
        world,
        config.augment if augment is None else augment,
    )
    return _steps(dataset, config.workers, pin)


def _steps(dataset: _Training, workers: int, pin: bool) -> Generator[list[Batch], None, None]:
    micro_batches = stream(dataset, workers, pin)
    try:
        for _ in range(dataset.steps):
            yield [next(micro_batches) for _ in range(dataset.per_step)]
    finally:
        micro_batches.close()


def heldout_batches(
    pairs: Pairs, tokenizer: Encoder, spec: ImageSpec, config: DataConfig, micro_batch_size: int, limit: int
) -> Iterator[tuple[Batch, Batch]]:
    """(right, wrong) batches: the same texts with their own images, and with images of pairs with other captions.

    The first `limit` pairs in a fixed hash order, never augmented. Where either image of a pair is bad, the pair is
    left out of both and listed in `bad`. The two batches share their text tensors.
    """
    source = _make_source(pairs, tokenizer, spec, config)
    dataset = _HeldOut(source, wrong_images(pairs, limit), micro_batch_size)
    pixels = 2 * len(dataset.couples) * spec.size**2
    for right, wrong in stream(dataset, config.workers if pixels > _PIXELS_WORTH_WORKERS else 0, False):
        yield right, replace(right, pixels=wrong.pixels)


def _make_source(pairs: Pairs, tokenizer: Encoder, spec: ImageSpec, config: DataConfig) -> _Source:
    # Workers share these texts instead of holding a copy each, and need no list of what was skipped.
    usable = replace(pairs, captions=SharedTexts(pairs.captions), names=SharedTexts(pairs.names), skipped=())
    return _Source(usable, tokenizer, spec, config.max_text_tokens, config.max_megapixels)


def wrong_images(pairs: Pairs, limit: int) -> list[tuple[int, int]]:
    """(pair, another pair whose caption and image differ) for the first `limit` pairs in hash order.

    The other pair is half of the list further on, the end joined to the start, or the next one that differs. A pair
    that differs from none is left out.
    """
    chosen = hash_order(pairs.names, 0)[:limit]
    couples = []
    for place, index in enumerate(chosen):
        others = (chosen[(place + len(chosen) // 2 + step) % len(chosen)] for step in range(len(chosen)))
        other = next(
            (j for j in others if pairs.captions[j] != pairs.captions[index] and pairs.names[j] != pairs.names[index]),
            None,
        )
        if other is not None:
            couples.append((index, other))
    return couples


def stream(dataset: Any, workers: int, pin: bool) -> Any:
    """The items of a dataset in order, from `workers` processes, which end when the iterator is closed."""
    workers = min(workers, len(dataset))
    context = start_fork_server() if workers else None
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pin,
        multiprocessing_context=context,
        worker_init_fn=_start_worker if workers else None,
        generator=torch.Generator(),
    )  # a separate generator: the loader must not change the random numbers that the model draws
    items = iter(loader)
    try:
        yield from items
    finally:
        if workers:
            items._shutdown_workers()  # type: ignore[attr-defined]  # now, not when the last reference is dropped


def _as_is(item: Any) -> Any:
    return item


def start_fork_server() -> Any:
    """Starts the process that workers are forked from, unless it runs; returns the multiprocessing context.

    A program may call it early: the process imports in the background and is ready by the first batch.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hive.data.loader"])
    resource_tracker.ensure_running()  # first, because it resets the signal mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return context


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Starts a thread that ends this process when its parent dies, however that happens.

    Call it once, in a process that multiprocessing has started.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
