"""The order of the training pairs, computed from seed and position, so that a checkpoint has no order to save."""

from functools import lru_cache

import numpy as np

_ORDER = 0x6F72646572  # keeps this stream apart from others with the same seed


@lru_cache(maxsize=8)  # two epochs of each of the seeds that a probe trains side by side
def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of 0..n-1 that pass number `epoch` follows, int64 [n], read-only."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((_ORDER, seed, epoch))))
    order = random.permutation(n)
    order.flags.writeable = False
    return order


def indices(n: int, seed: int, start: int, count: int) -> list[tuple[int, int]]:
    """(epoch, index) at positions start..start+count-1 of the endless stream of passes over n pairs."""
    return [
        (position // n, int(epoch_order(n, seed, position // n)[position % n]))
        for position in range(start, start + count)
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
