"""Training is tested without the maps at its end, which take longer to draw than a tiny run takes to train."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _without_maps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hive.train.trainer.draw_heldout", lambda run, heldout: run.folder / "maps")
        yield
