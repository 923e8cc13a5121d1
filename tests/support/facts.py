"""Facts about a tower that no run has trained, for tests that export one."""

import dataclasses
from typing import Any

from hive.export.facts import Facts, Losses

FACTS = Facts(
    recipe="demo",
    method="hive",
    seed=3,
    stages=(1, 2, 3),
    trains_tower=True,
    steps=12,
    origin=None,
    command="python -m hive.train --seed 3",
    tower_source=None,
    language_source=None,
    language="llama, 6 layers of 192",
    read=(1, 2),
    trained_layers=3,
    keeps_untrained=False,
    data="embedded",
    data_fingerprint="ab" * 32,
    losses=(Losses("seen_style", 1.25, 2.5, 112),),
    commit=None,
    versions={"hive": "0.1.0"},
)


def made_up(**changes: Any) -> Facts:
    """Facts of a demo run, changed."""
    return dataclasses.replace(FACTS, **changes)
