"""The order of the training pairs, computed from seed and position, so that a checkpoint has no order to save."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

_ORDER = 0x6F72646572  # keeps this stream apart from others with the same seed


class Mix(NamedTuple):
    """The sources that an epoch is made of; their pairs follow each other."""

    sizes: tuple[int, ...]
    """Pairs of each source."""
    weights: tuple[float, ...]
    """Passes over each source in an epoch."""

    @property
    def taken(self) -> tuple[int, ...]:
        """Pairs of each source in an epoch."""
        return tuple(max(1, round(w * n)) if n else 0 for n, w in zip(self.sizes, self.weights, strict=True))

    @property
    def epoch(self) -> int:
        """Pairs in an epoch."""
        return sum(self.taken)


@lru_cache(maxsize=8)  # two epochs of each of the seeds that a probe trains side by side
def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of 0..n-1 that pass number `epoch` follows, int64 [n], read-only."""
    return _permutation(n, seed, epoch)


@lru_cache(maxsize=8)
def mixed_epoch(mix: Mix, seed: int, epoch: int) -> np.ndarray:
    """(pass over its source, index) of each pair of an epoch in order, int64 [n, 2], read-only.

    Each source has an endless stream of passes, each in another order, of which an epoch takes the next part. What all
    sources give is then in the order of `epoch_order`, so that one source passed over once is just that.
    """
    rows = []
    first = 0
    for number, (size, taken) in enumerate(zip(mix.sizes, mix.taken, strict=True)):
        start, end = epoch * taken, (epoch + 1) * taken
        for turn in range(start // size, -(-end // size)) if size else ():
            part = np.arange(size)
            if start > turn * size or end < (turn + 1) * size:  # of a whole pass the order doesn't matter
                part = np.sort(_permutation(size, seed, turn, number)[max(0, start - turn * size) : end - turn * size])
            rows.append(np.stack([np.full(len(part), turn), first + part], axis=1))
        first += size
    order = np.concatenate(rows)[epoch_order(mix.epoch, seed, epoch)]
    order.flags.writeable = False
    return order


def _permutation(n: int, *key: int) -> np.ndarray:
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((_ORDER, *key))))
    order = random.permutation(n)
    order.flags.writeable = False
    return order


def indices(pairs: int | Mix, seed: int, start: int, count: int) -> list[tuple[int, int]]:
    """(pass, index) at positions start..start+count-1 of the endless stream of epochs over so many pairs, or a mixture.

    No pair has the same pass twice; without a mixture the pass is the epoch.
    """
    positions = range(start, start + count)
    if isinstance(pairs, Mix):
        n = pairs.epoch
        found = [mixed_epoch(pairs, seed, position // n)[position % n] for position in positions]
        return [(int(turn), int(index)) for turn, index in found]
    return [
        (position // pairs, int(epoch_order(pairs, seed, position // pairs)[position % pairs]))
        for position in positions
    ]


def rounds(batch: int, largest: int, world: int) -> int:
    """Micro-batches of each of `world` processes in a step, the fewest of at most `largest` samples each."""
    return -(-batch // (largest * world))


def share(batch: int, number: int, parts: int) -> tuple[int, int]:
    """(first position, samples) in the batch of micro-batch `number` of all `parts`, whose sizes differ by at most 1.

    The larger ones come first, so that a row of consecutive ones, one for each process, is as even.
    """
    size, larger = divmod(batch, parts)
    return number * size + min(number, larger), size + (number < larger)


def steps(epochs: float, n: int, batch: int) -> int:
    """Optimiser steps of a stage: each pass is rounded to whole batches, as in the paper (Table 3); at least 1."""
    per_epoch = round(n / batch) or n / batch
    return max(1, round(epochs * per_epoch))
