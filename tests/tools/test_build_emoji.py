"""The pure parts of tools/build_emoji.py: families, splits, repeats, files and the check of what was fetched."""

import base64
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from emoji.catalogue import Emoji, Icons, normalised, slug, tone_names
from emoji.outputs import write_split
from emoji.packages import verify
from emoji.splits import ADULT, SPLITS, Drawing, assign, family, held_out_vendor, without_repeats
from emoji.tokenizer import train_tokenizer

RUNNER = Emoji("1F3C3", "1F3C3", "person running", "people-body", "person-activity", "", ("fast", "run"), 1)


def emoji(number: int) -> Emoji:
    """An emoji of its own family, the `number`-th of many."""
    hexcode = f"{0xE000 + number:X}"
    return replace(RUNNER, hexcode=hexcode, concept=hexcode, caption=f"thing {number}", order=number)


def drawings(count: int, vendors: tuple[str, ...]) -> list[Drawing]:
    """Every vendor's drawing of the first `count` emoji, all of them different."""
    return [Drawing(emoji(n), vendor, f"{n} {vendor}".encode()) for n in range(count) for vendor in vendors]


@pytest.mark.parametrize(
    ("hexcode", "expected"),
    [
        ("1F3C3", "1F3C3"),  # person running
        ("1F3C3-200D-2640-FE0F", "1F3C3"),  # woman running
        ("1F3C3-1F3FF-200D-2642-FE0F-200D-27A1-FE0F", "1F3C3"),  # man running facing right: dark skin tone
        ("1F468-200D-1F680", f"{ADULT}-1F680"),  # man astronaut
        ("1F469-1F3FB-200D-1F680", f"{ADULT}-1F680"),  # woman astronaut: light skin tone
        ("1F469-200D-1F9B0", f"{ADULT}-1F9B0"),  # woman: red hair
        ("1F468", ADULT),  # man
        ("1F478", "1FAC5"),  # princess: person with crown
        ("1F46D", f"{ADULT}-1F91D-{ADULT}"),  # women holding hands
        ("1F468-200D-2764-FE0F-200D-1F468", f"{ADULT}-2764-{ADULT}"),  # couple with heart: man, man
        ("1F491", f"{ADULT}-2764-{ADULT}"),  # couple with heart
        ("1F468-200D-1F469-200D-1F466", "1F46A"),  # family: man, woman, boy
        ("1F9D1-200D-1F9D2", "1F46A"),  # family: adult, child
        ("1F1F3-1F1F4", "1F1F3-1F1F4"),  # flag: Norway
        ("27A1-FE0F", "27A1"),  # right arrow: a sign by itself is not a modifier
        ("2640-FE0F", "2640"),  # female sign
    ],
)
def test_family(hexcode: str, expected: str) -> None:
    assert family(hexcode) == expected


def test_every_drawing_has_one_split_or_is_an_unseen_style_of_an_unseen_concept() -> None:
    everything = drawings(2000, ("noto", "noto-v1", "fluent"))
    divided = assign(everything)
    assert set(divided) == set(SPLITS)
    unseen = {drawing.emoji.concept for drawing in divided["unseen_concept"]}
    placed = sum(len(members) for members in divided.values())
    assert placed == len(everything) - len(unseen)
    for split in ("train", "seen_style", "unseen_style"):
        assert unseen.isdisjoint(drawing.emoji.concept for drawing in divided[split])
    assert {drawing.vendor for drawing in divided["unseen_style"]} == {"fluent"}
    trained = {drawing.emoji.concept for drawing in divided["train"]}
    assert trained == {drawing.emoji.concept for drawing in divided["unseen_style"]}
    assert {drawing.emoji.concept for drawing in divided["seen_style"]} < trained
    assert len(unseen) / 2000 == pytest.approx(0.12, abs=0.02)
    assert len(divided["seen_style"]) / len(trained) == pytest.approx(0.10, abs=0.02)


def test_a_family_is_in_one_split() -> None:
    for number in range(100):
        person = emoji(number)
        variants = [
            replace(person, concept=f"{person.hexcode}{sign}") for sign in ("", "-200D-2640", "-200D-2642-FE0F")
        ]
        divided = assign(Drawing(variant, "noto", variant.concept.encode()) for variant in variants)
        assert sorted(len(members) for members in divided.values()) == [0, 0, 0, 3]


def test_a_split_does_not_depend_on_the_order_or_on_other_drawings() -> None:
    everything = drawings(200, ("noto", "noto-v1"))
    train = assign(everything)["train"]
    assert {drawing.image for drawing in assign(everything[::-1])["train"]} == {drawing.image for drawing in train}
    half = {drawing.image for drawing in assign(everything[:200])["train"]}
    assert half == {drawing.image for drawing in train} & {drawing.image for drawing in everything[:200]}


def test_the_only_drawing_of_a_concept_is_not_held_out() -> None:
    assert all(held_out_vendor(str(number), {"noto"}) is None for number in range(100))


def test_repeats_keep_the_first_that_is_no_alias() -> None:
    lent = Drawing(emoji(0), "noto", b"bat", is_alias=True)
    own = Drawing(emoji(1), "noto", b"bat")
    other_vendor = Drawing(emoji(1), "noto-v1", b"bat")
    different = Drawing(emoji(2), "noto", b"ball")
    assert without_repeats([lent, own, other_vendor, different]) == ([own, different], 1, 1)


def test_the_same_drawings_give_the_same_bytes(tmp_path: Path) -> None:
    some = drawings(600, ("noto", "noto-v1"))
    write_split(some, tmp_path / "first.parquet")
    write_split(some[::-1], tmp_path / "second.parquet")
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()


def test_a_changed_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "package.tgz"
    archive.write_bytes(b"as published")
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(b"as published").digest()).decode()
    verify(archive, integrity)
    archive.write_bytes(b"changed")
    with pytest.raises(ValueError, match="is pinned"):
        verify(archive, integrity)


def test_drawings_are_found_by_character_by_name_and_by_alias() -> None:
    icons = Icons(
        icons={"jogger": {"body": "<a/>"}, "thing-1": {"body": "<b/>"}},
        aliases={"thing-2": {"parent": "thing-1", "hFlip": True}},
        width=32,
        height=32,
        by_hexcode={"1f3c3": "jogger"},
    )
    assert "<a/>" in (icons.svg(RUNNER) or "")
    assert "<b/>" in (icons.svg(emoji(1)) or "")
    assert not icons.is_alias(emoji(1))
    assert "scale(-1 1)" in (icons.svg(emoji(2)) or "")
    assert icons.is_alias(emoji(2))
    assert icons.svg(emoji(3)) is None


def test_names() -> None:
    assert slug("flag: Côte d’Ivoire") == "flag-cote-divoire"
    assert slug("keycap: *") == "keycap-asterisk"
    assert normalised("1F3C3-200D-2640-FE0F") == "1f3c3-200d-2640"
    assert [list(tone_names(tone)) for tone in (None, 1, [1, 5])] == [[], ["light"], ["light", "dark"]]


def test_a_tokenizer_is_the_same_when_trained_again() -> None:
    captions = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("circle", "square", "heart")]
    assert train_tokenizer(captions).to_str() == train_tokenizer(captions).to_str()
