"""The micro-batches that methods are compared on: images with texts of given lengths."""

from dataclasses import dataclass
from itertools import accumulate

import torch

from hive.config import Config
from hive.cost.methods import Subject, image_size, vocab_size
from hive.data.order import indices
from hive.data.pairs import open_pairs
from hive.data.text import Batch, load_tokenizer


@dataclass(frozen=True)
class Texts:
    """The captions of a micro-batch."""

    name: str
    """Tokens per caption, such as "77", or "data"."""
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean tokens per caption."""
        return sum(self.lengths) / len(self.lengths)


def texts(name: str, config: Config, samples: int) -> Texts:
    """Captions of as many tokens as `name` says, or for "data" those in the first training batch of the recipe's data.

    Raises `UserError` where the data or its tokenizer can't be read.
    """
    if name != "data":
        return Texts(name, (int(name),) * samples)
    tokenizer = load_tokenizer(config.language.tokenizer or config.language.weights)
    pairs = open_pairs(config.data, config.image_root, config.dataset)
    captions = [pairs.captions[index] for _, index in indices(len(pairs), config.seed, 0, samples)]
    ids = [tokenizer.encode(caption, config.dataset.max_text_tokens) for caption in captions]
    return Texts(name, tuple(max(1, len(tokens) - 1) for tokens in ids))  # the last token is only predicted


def random_batch(lengths: tuple[int, ...], model: Subject, *, seed: int = 0) -> Batch:
    """A micro-batch of random values on the CPU, with texts of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    size = image_size(model)
    return Batch(
        pixels=torch.randint(0, 256, (len(lengths), 3, size, size), dtype=torch.uint8, generator=generator),
        tokens=torch.randint(0, vocab_size(model), (sum(lengths),), generator=generator),
        targets=torch.randint(0, vocab_size(model), (sum(lengths),), generator=generator),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        cu_seqlens=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        max_seqlen=max(lengths),
    )


def empty_batch(lengths: tuple[int, ...], model: Subject) -> Batch:
    """A micro-batch without values, on the meta device, with texts of these lengths."""
    size, total = image_size(model), sum(lengths)
    with torch.device("meta"):
        return Batch(
            pixels=torch.empty(len(lengths), 3, size, size, dtype=torch.uint8),
            tokens=torch.empty(total, dtype=torch.int64),
            targets=torch.empty(total, dtype=torch.int64),
            positions=torch.empty(total, dtype=torch.int64),
            cu_seqlens=torch.empty(len(lengths) + 1, dtype=torch.int32),
            max_seqlen=max(lengths),
        )
