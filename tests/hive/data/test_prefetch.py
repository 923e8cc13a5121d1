"""Batches arrive as they were sent, each under way while the one before is worked on."""

import pytest
import torch

from hive.data.prefetch import Prefetcher, one_ahead
from hive.data.text import Batch, pack
from tests.support.pairs_on_the_spot import same


def batch(number: int) -> Batch:
    return pack([(torch.full((3, 4, 4), number, dtype=torch.uint8), [1, number, 2])])


def test_on_a_cpu_batches_pass_unchanged() -> None:
    sent = [batch(number) for number in range(4)]
    received = list(Prefetcher(torch.device("cpu"))(sent))
    assert all(x is y for x, y in zip(received, sent, strict=True))


def test_other_devices_get_each_batch_when_it_is_asked_for() -> None:
    """Such as mps, for which meta stands here."""
    received = list(Prefetcher(torch.device("meta"))(batch(number) for number in range(3)))
    assert [tensor.device.type for item in received for tensor in item.tensors().values()] == ["meta"] * 15


@pytest.mark.parametrize("count", [0, 1, 4])
def test_one_copy_ahead(count: int) -> None:
    """The order of copies and of work, with a list in the GPU's place."""
    done: list[str] = []

    def copy(number: int) -> int:
        done.append(f"copy {number}")
        return number

    for number in one_ahead(range(count), copy, lambda number: number):
        done.append(f"work {number}")
    expected = ["copy 0", "copy 1", "work 0", "copy 2", "work 1", "copy 3", "work 2", "work 3"]
    assert done == [entry for entry in expected if int(entry[-1]) < count]


@pytest.mark.parametrize(
    ("device", "side", "width"), [("cpu", 4, 8), pytest.param("cuda", 512, 4096, marks=pytest.mark.gpu)]
)
def test_nothing_is_lost_or_overwritten(device: str, side: int, width: int) -> None:
    """Long work on each batch, and many batches, so that memory of earlier ones is given to later ones."""
    sent = [pack([(torch.full((3, side, side), n, dtype=torch.uint8), [1, n, 2])] * 8) for n in range(40)]
    sent = [batch.pin_memory() for batch in sent] if device == "cuda" else sent
    weight = torch.randn(width, width, device=device)
    sums = []
    for received in Prefetcher(torch.device(device))(sent):
        for _ in range(20):
            weight = torch.tanh(weight @ weight)
        sums.append(received.pixels.sum(dtype=torch.int64))
        last = received
    assert torch.stack(sums).tolist() == [n * 8 * 3 * side * side for n in range(40)]
    assert same(last.to("cpu"), sent[-1])
