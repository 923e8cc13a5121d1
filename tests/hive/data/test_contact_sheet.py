"""The contact sheet shows the tower's pixels and the model's text, and says what it can't draw."""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hive.config import DataConfig
from hive.data.check import look_at_all
from hive.data.contact_sheet import INK, LINES, MARGIN, RED, Cell, choose_cells, draw_sheet
from hive.data.fonts import Fonts
from hive.data.images import ImageSpec, load
from hive.data.pairs import Pairs, hash_order
from hive.data.summary import Reading
from hive.data.text import Tokenizer

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture
def reading(tokenizer: Tokenizer, spec: ImageSpec) -> Reading:
    return Reading(tokenizer, spec, DataConfig(max_text_tokens=8), "pairs", "captions", "python -m hive.data")


def sheet_of(*cells: Cell, fonts: Fonts | None = None) -> np.ndarray:
    data = draw_sheet(cells, "title", "subtitle", fonts or Fonts(15, ()))
    return np.asarray(Image.open(io.BytesIO(data)))


def cell(kept: str, cut: str = "", pixels: np.ndarray | None = None) -> Cell:
    grey = np.full((16, 16, 3), 128, np.uint8)
    return Cell("a.png", "20x16", grey if pixels is None else pixels, kept, cut)


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == np.array(colour, np.uint8)).all(-1).any())


def test_pairs_are_chosen_by_hash_and_shown_as_they_are_read(eighteen: Pairs, reading: Reading) -> None:
    findings = look_at_all(eighteen, reading, False, Console(quiet=True))
    cells = choose_cells(findings, reading)
    chosen = hash_order(eighteen.names, 0)[:16]
    assert [(shown.name, shown.size) for shown in cells] == [(eighteen.names[k], "20x16") for k in chosen]
    for shown, index in zip(cells, chosen, strict=True):
        assert np.array_equal(shown.pixels.transpose(2, 0, 1), load(eighteen.read(index), reading.spec, 64).numpy())
        assert (shown.kept + shown.cut).strip() == eighteen.captions[index]
        ids = reading.encoder.encode(eighteen.captions[index], 8)
        assert shown.kept == reading.encoder.backend.decode(ids[1:])  # type: ignore[attr-defined]


def test_small_images_are_enlarged_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    sheet = sheet_of(cell("a", pixels=pixels))
    enlarged = pixels.repeat(14, 0).repeat(14, 1)
    rows = [
        row
        for row in range(len(sheet) - 224)
        if np.array_equal(sheet[row : row + 224, MARGIN : MARGIN + 224], enlarged)
    ]
    assert len(rows) == 1


def test_what_is_cut_is_red() -> None:
    assert not has(sheet_of(cell("a red box")), RED)
    both = sheet_of(cell("a red box", " on the left"))
    assert has(both, RED)
    assert has(both, INK)


def test_a_long_caption_has_an_end() -> None:
    word = sheet_of(cell("w" * 200_000))
    words = sheet_of(cell("many words " * 20_000, "and more " * 5))
    ten_lines = sheet_of(cell("\n".join("a" * LINES)))
    assert word.shape == words.shape == ten_lines.shape
    assert not has(word, RED)


def test_characters_that_no_font_has_are_named() -> None:
    fonts = Fonts(15, ())
    assert fonts.spell("a café — кошка, γάτα") == "a café — кошка, γάτα"
    assert fonts.missing == set()
    assert fonts.spell("一只猫 and 🐶\U000e0100") == "[3 x cjk] and [dog face]"
    assert fonts.missing == set("一只猫🐶")
    assert Fonts(15, ()).spell("猫") == "[cjk 732b]"


def test_another_font_is_taken_where_the_main_one_lacks_a_character() -> None:
    files = [str(DEJAVU / "STIXGeneral.ttf"), str(DEJAVU / "no such file.ttf")]
    only_stix = "𝔄"  # Fraktur, which DejaVu Sans lacks
    assert Fonts(15, ()).spell(only_stix) == "[mathematical fraktur capital a]"
    fonts = Fonts(15, files)
    assert fonts.spell(only_stix) == only_stix
    runs = list(fonts.runs(f"a {only_stix}"))
    assert [text for text, _ in runs] == ["a", " ", only_stix]
    assert Path(str(runs[2][1].path)).name == "STIXGeneral.ttf"


def test_arabic_begins_on_the_right() -> None:
    """What is cut is the end of the line, which is on its left."""
    sheet = sheet_of(cell("كلب على", " الشاطئ"))
    below = sheet[-60:]  # the caption's line is the last one
    columns = {colour: np.flatnonzero((below == np.array(colour, np.uint8)).all(-1).any(0)) for colour in (INK, RED)}
    assert columns[RED].max() < columns[INK].min()
    latin = sheet_of(cell("a dog on", " the beach"))[-60:]
    columns = {colour: np.flatnonzero((latin == np.array(colour, np.uint8)).all(-1).any(0)) for colour in (INK, RED)}
    assert columns[INK].max() < columns[RED].min()
