"""The pictures of README and docs/architecture.md are drawn, are legible, and are the same every time."""

from itertools import combinations
from pathlib import Path

import draw_method
import pytest
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("draw", [draw_method.draw_method, draw_method.draw_batch])
def test_words_are_legible_where_a_page_shows_800_pixels(draw):
    figure = draw().figure
    figure.draw_without_rendering()
    words = [text for text in figure.axes[0].texts if text.get_text()]  # arrows are texts without words
    extents = [text.get_window_extent() for text in words]

    assert min(text.get_fontsize() for text in words) >= 10
    for extent in extents:
        assert figure.bbox.x0 <= extent.x0
        assert extent.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= extent.y0
        assert extent.y1 <= figure.bbox.y1
    for (one, box), (other, other_box) in combinations(zip(words, extents, strict=True), 2):
        assert not box.overlaps(other_box), (one.get_text(), other.get_text())


def test_the_script_writes_the_same_bytes_each_time(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        draw_method.main(["--out", str(folder)])

    for name in ("method.png", "batch.png"):
        first, second = (folder / name for folder in folders)
        assert first.read_bytes() == second.read_bytes()
        with Image.open(first) as drawn, Image.open(DOCS / name) as committed:
            assert drawn.size == committed.size
