"""The order of the pairs and the paper's numbers of steps."""

import pytest

from hive.data.order import epoch_order, indices, steps


def test_every_pass_is_another_permutation() -> None:
    passes = [epoch_order(100, 5, epoch) for epoch in range(3)] + [epoch_order(100, 6, 0)]
    assert all(sorted(order) == list(range(100)) for order in passes)
    assert len({order.tobytes() for order in passes}) == 4


def test_the_stream_is_the_passes_end_to_end() -> None:
    stream = indices(7, 0, 0, 30)
    assert stream == [(p // 7, int(epoch_order(7, 0, p // 7)[p % 7])) for p in range(30)]
    assert indices(7, 0, 11, 9) == stream[11:20]
    assert all(isinstance(index, int) for _, index in stream)


@pytest.mark.parametrize(
    ("epochs", "n", "batch", "expected"),
    [
        (1, 595_375, 256, 2326),
        (2, 595_375, 256, 4652),
        (1, 595_375, 1024, 581),  # paper, Table 3
        (0.5, 595_375, 256, 1163),
        (10, 100, 256, 4),
        (1, 3, 256, 1),
    ],
)
def test_steps(epochs: float, n: int, batch: int, expected: int) -> None:
    assert steps(epochs, n, batch) == expected


def test_order_is_the_same_on_every_machine() -> None:
    assert epoch_order(8, 0, 0).tolist() == [5, 2, 0, 7, 6, 3, 4, 1]
