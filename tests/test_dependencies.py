"""What make test-oldest installs are the lower bounds that pyproject.toml states."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints-oldest.txt").read_text(), re.M))
EXTRAS = PROJECT["optional-dependencies"]
TESTED = ("dev", "probe", "wandb", "hub", "heif")
BOUNDS = [
    bound
    for bound in (*PROJECT["dependencies"], *(bound for extra in TESTED for bound in EXTRAS[extra]))
    if "[" not in bound
]


def release(version: str) -> list[int]:
    """The numbers of a version, without zeros at its end."""
    return list(map(int, re.sub(r"(\.0)+$", "", version).split(".")))


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_oldest_environment_has_the_lower_bounds(bound: str) -> None:
    parts = re.match(r"([\w.-]+)(?:>=|==)([\d.]+)", bound)
    assert parts is not None
    name, version = parts.groups()
    assert release(PINNED[name]) == release(version)
