"""The order of the pairs and the paper's numbers of steps."""

from collections import Counter

import pytest

from hive.data.order import Mix, epoch_order, indices, mixed_epoch, steps


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


MIX = Mix((10, 7, 1, 0), (1.0, 2.5, 0.3, 1.0))


def test_an_epoch_of_a_mixture_takes_its_share_of_each_source() -> None:
    assert MIX.taken == (10, 18, 1, 0)
    counts = Counter(index for _, index in indices(MIX, 3, 5 * MIX.epoch, MIX.epoch))
    assert [counts[index] for index in range(10)] == [1] * 10
    assert min(counts[index] for index in range(10, 17)) >= 2  # 18 of 7 pairs go on where the last epoch ended
    assert sum(counts[index] for index in range(10, 17)) == 18


def test_fractions_take_another_part_in_every_epoch() -> None:
    mix = Mix((10, 8), (0.3, 0.5))
    epochs = [{index for _, index in indices(mix, 0, epoch * mix.epoch, mix.epoch)} for epoch in range(10)]
    assert all(len(epoch) == 7 for epoch in epochs)
    assert epochs[0] | epochs[1] >= set(range(10, 18))  # half and half
    counts = Counter(index for epoch in epochs for index in epoch)
    assert [counts[index] for index in range(18)] == [3] * 10 + [5] * 8
    assert len({frozenset(epoch) for epoch in epochs}) > 5


def test_no_pair_has_the_same_pass_twice() -> None:
    """Augmentation is a function of (seed, pass, index)."""
    seen = indices(MIX, 0, 0, 12 * MIX.epoch)
    assert len(set(seen)) == len(seen)


def test_a_mixtures_order_is_a_function_of_seed_and_position_alone() -> None:
    stream = indices(MIX, 1, 0, 200)
    assert indices(MIX, 1, 77, 50) == stream[77:127]
    mixed_epoch.cache_clear()
    assert indices(MIX, 1, 100, 29) == stream[100:129]
    assert indices(MIX, 2, 0, 200) != stream
    first, second = stream[: MIX.epoch], stream[MIX.epoch : 2 * MIX.epoch]
    assert [index for _, index in first] != [index for _, index in second]


def test_the_sources_are_mixed_within_an_epoch() -> None:
    mix = Mix((500, 500), (1.0, 1.0))
    half = [index < 500 for _, index in indices(mix, 0, 0, 500)]
    assert 200 < sum(half) < 300


def test_one_source_once_is_the_plain_order() -> None:
    assert indices(Mix((9,), (1.0,)), 4, 0, 40) == indices(9, 4, 0, 40)


def test_a_mixtures_order_is_the_same_on_every_machine() -> None:
    assert indices(Mix((4, 3), (0.5, 1.0)), 0, 0, 10) == [
        (0, 6),
        (0, 5),
        (0, 4),
        (0, 0),
        (0, 2),
        (1, 4),
        (1, 6),
        (1, 5),
        (0, 1),
        (0, 3),
    ]
