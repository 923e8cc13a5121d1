"""The maps that are drawn at the end of a training run, of four fixed held-out pairs."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

from hive.data.pairs import Pairs, hash_order
from hive.errors import UserError
from hive.maps.make import make_attention, make_gradients
from hive.train.trained import Run

PAIRS = 4
TRIED = 100  # pairs of each split, at most, that are tried to find readable ones


def draw_heldout(run: Run, heldout: Mapping[str, Pairs]) -> Path:
    """Draws gradients-heldout-1.png to attention-heldout-4.png and their arrays into the run's maps/; returns that.

    The pairs are the first readable ones in a fixed hash order, taken from the splits in turn.
    """
    folder = run.folder / "maps"
    number = 0
    for image, caption in _in_turn(heldout):
        try:
            figures = {
                "gradients": make_gradients([run], image, caption),
                "attention": make_attention([run], image, caption),
            }
        except UserError:  # an image that can't be read: the held-out evaluation has put it into the ledger
            continue
        number += 1
        for kind, figure in figures.items():
            figure.write(folder, f"{kind}-heldout-{number}")
        if number == PAIRS:
            break
    return folder


def _in_turn(heldout: Mapping[str, Pairs]) -> Iterator[tuple[bytes, str]]:
    """Yields (encoded image, caption) from the splits in turn, without files that can't be read."""
    orders = [[(pairs, index) for index in hash_order(pairs.names, 0)[:TRIED]] for pairs in heldout.values()]
    for row in zip_longest(*orders):
        for pairs, index in filter(None, row):
            try:
                yield pairs.read(index), pairs.captions[index]
            except OSError:
                continue
