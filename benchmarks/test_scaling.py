"""Times a step of stage 2 along each axis, of HIVE and self-attention; full axes on a GPU, short ones on a CPU."""

import pytest
import torch

from hive.cost.methods import METHODS, Method
from hive.efficiency.scaling import COMPARED, Point, places, time_point
from hive.recipes import load_recipe

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
RECIPE = "siglip-l-384-mobilellm-350m" if GPU else "demo"
PLACES = places(load_recipe(RECIPE), small=not GPU)


@pytest.mark.parametrize("method", COMPARED)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.axis} {place.at:g}")
def test_scaling(place, method: Method, benchmark) -> None:
    if place.at == 0:
        pytest.skip("the text alone: nothing to compare")
    point = benchmark.pedantic(
        time_point, args=(place, Point(place.axis, place.at, method, 0, 0, None), DEVICE, "torch"), rounds=1
    )
    if point.seconds is None:
        pytest.skip(f"{METHODS[method]} does not fit at {place.axis} {place.at:g}")
    benchmark.group = f"scaling, {place.axis}"
    benchmark.extra_info["step_ms"] = 1000 * point.seconds
