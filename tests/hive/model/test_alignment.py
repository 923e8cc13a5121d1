"""Layer choices against the paper's and the released models' own lists."""

import pytest

from hive.errors import UserError
from hive.model.alignment import align_depths, select_hidden_states


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (32, (5, 11, 16, 21, 26, 31)),
        (40, (6, 13, 20, 27, 33, 39)),
        (30, (4, 9, 14, 19, 24, 29)),
        (54, (8, 17, 26, 35, 44, 53)),
    ],
)
def test_depths_are_those_of_the_released_models(layers: int, expected: tuple[int, ...]) -> None:
    assert align_depths("aligned", 6, layers) == expected


def test_selections_are_those_of_the_paper() -> None:
    assert select_hidden_states("uniform", 0.25, 24) == (3, 7, 11, 15, 19, 23)
    assert select_hidden_states("later", 0.25, 24) == (17, 18, 19, 20, 21, 22)
    assert select_hidden_states("0,24", 0.25, 24) == (0, 24)
    assert select_hidden_states("uniform", 1.0, 4) == (0, 1, 2, 3)


@pytest.mark.parametrize("selection", ["last", "3,2", "25", "-1", "", "1,1"])
def test_bad_selections_are_refused(selection: str) -> None:
    with pytest.raises(UserError, match=r"--vision\.selection"):
        select_hidden_states(selection, 0.25, 24)


def test_bad_depths_are_refused() -> None:
    with pytest.raises(UserError, match="only 4 layers"):
        align_depths("aligned", 6, 4)
    with pytest.raises(UserError, match="names 1 layers for 2"):
        align_depths("3", 2, 4)
    with pytest.raises(UserError, match="--depths"):
        align_depths("1,4", 2, 4)
