"""Caption loss on pairs that were not trained on, with the right image and with a wrong one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from hive.data.ledger import Ledger
from hive.data.text import Batch
from hive.distributed import World
from hive.model.build import Model
from hive.model.vision import Encode


@dataclass(frozen=True)
class HeldOut:
    """Mean losses on one split, nats a token, with the right and with wrong images."""

    right: float | None
    """None where no image could be read."""
    wrong: float | None
    pairs: int
    tokens: int

    @property
    def gain(self) -> float | None:
        """How much lower the loss is with the right image than with a wrong one, nats a token."""
        return None if self.right is None or self.wrong is None else self.wrong - self.right


@torch.no_grad()
def evaluate(
    model: Model,
    batches: Iterable[tuple[Batch, Batch]],
    world: World,
    ledger: Ledger,
    encode: Encode | None = None,
) -> HeldOut:
    """The losses over (batch with right images, batch with wrong images) pairs, which share their texts.

    Every process reads all batches and runs its share of them; all get the same result. Bad samples are counted in
    `ledger`. `encode`, if given, encodes the images instead of the model's tower.
    """
    right: list[torch.Tensor] = []
    wrong: list[torch.Tensor] = []
    pairs = tokens = 0
    for number, (with_right, with_wrong) in enumerate(batches):
        ledger.count(with_right.samples, with_right.bad)
        pairs += with_right.samples
        tokens += with_right.token_count
        if with_right.samples and number % world.size == world.rank:
            right.append(model(with_right.to(world.device), encode))
            wrong.append(model(with_wrong.to(world.device), encode))
    sums = world.sum(_total(right)), world.sum(_total(wrong))
    return HeldOut(sums[0] / tokens, sums[1] / tokens, pairs, tokens) if tokens else HeldOut(None, None, 0, 0)


def _total(losses: list[torch.Tensor]) -> float:
    """The sum in fp64, on the host: not all devices have that."""
    return sum(torch.stack(losses).tolist()) if losses else 0.0


def table(results: Mapping[str, HeldOut]) -> str:
    """The splits as an aligned text table."""
    rows = [f"{'held out':<16}{'pairs':>7}{'right image':>14}{'wrong image':>14}{'difference':>13}  nats a token"]
    for split, result in results.items():
        numbers = (
            "  no readable image"
            if result.gain is None
            else f"{result.right:>14.3f}{result.wrong:>14.3f}{result.gain:>13.3f}"
        )
        rows.append(f"{split.replace('_', ' '):<16}{result.pairs:>7}{numbers}")
    return "\n".join(rows)
