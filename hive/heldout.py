"""Caption loss on pairs that were not trained on, with the right image and with a wrong one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from hive.data.ledger import Ledger
from hive.data.text import Batch
from hive.model.build import Model


@dataclass(frozen=True)
class HeldOut:
    """Mean loss in nats a token on one split."""

    right: float
    wrong: float
    pairs: int
    tokens: int

    @property
    def gain(self) -> float:
        """What seeing the right image in place of a wrong one is worth, nats a token."""
        return self.wrong - self.right


@torch.no_grad()
def evaluate(model: Model, batches: Iterable[tuple[Batch, Batch]], device: torch.device, ledger: Ledger) -> HeldOut:
    """Loss over pairs of batches that share their texts: the first with right images, the second with wrong ones."""
    right = torch.zeros((), dtype=torch.float64, device=device)
    wrong = torch.zeros_like(right)
    pairs = tokens = 0
    for with_right, with_wrong in batches:
        ledger.count(with_right.samples, with_right.bad)
        if with_right.samples == 0:
            continue
        right += model(with_right.to(device)).double()
        wrong += model(with_wrong.to(device)).double()
        pairs += with_right.samples
        tokens += with_right.token_count
    return HeldOut(right.item() / max(1, tokens), wrong.item() / max(1, tokens), pairs, tokens)


def table(results: Mapping[str, HeldOut]) -> str:
    """The splits as an aligned text table."""
    rows = [f"{'held out':<16}{'pairs':>7}{'right image':>14}{'wrong image':>14}{'difference':>13}  nats a token"]
    for split, result in results.items():
        rows.append(
            f"{split.replace('_', ' '):<16}{result.pairs:>7}{result.right:>14.3f}{result.wrong:>14.3f}"
            f"{result.gain:>13.3f}"
        )
    return "\n".join(rows)
