"""Builds a captioned image set from emoji drawn by several vendors.

    python tools/build_emoji.py                                              # the set inside the package
    python tools/build_emoji.py --vendors all --tones --size 128 --out DIR   # the bigger one, for local use only

A concept has one caption (its CLDR label) and several drawings, so a drawing in a style that training never saw and a
concept that training never saw are two different tests. Needs `npm` and `pip install .[data]`. With the versions in
MADE_WITH the files come out the same, byte for byte, on every run.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from emoji.catalogue import read_emoji, read_icons
from emoji.outputs import attribution, write_split
from emoji.packages import NAMES, PERMISSIVE, VENDORS, fetch
from emoji.render import encode, is_blank, render
from emoji.splits import Drawing, assign, without_repeats
from emoji.tokenizer import save_tokenizer, train_tokenizer

EMBEDDED = Path(__file__).resolve().parents[1] / "hive" / "data" / "embedded"
EMBEDDED_SIZE = 64
MADE_WITH = {"resvg-py": "0.5.0", "pillow": "13.0.0", "pyarrow": "26.0.1", "tokenizers": "0.23.3"}
"""Versions that made the files in the repository; others may draw or write the same content in other bytes."""


def main() -> None:
    """Builds the set: fetches packages, renders drawings, divides them and writes the files; prints counts."""
    arguments = parse_arguments()
    for name, made_with in MADE_WITH.items():
        if version(name) != made_with:
            print(f"note: {name} is {version(name)}, the embedded set was made with {made_with}: bytes may differ")

    vendors = PERMISSIVE if arguments.vendors == "permissive" else tuple(VENDORS)
    drawings = draw_all(vendors, arguments.size, arguments.tones, arguments.cache)
    drawings, same_caption, other_caption = without_repeats(drawings)
    print(f"repeated pictures dropped: {same_caption} with the same caption, {other_caption} with another")

    arguments.out.mkdir(parents=True, exist_ok=True)
    splits = assign(drawings)
    for split, members in splits.items():
        path = arguments.out / f"{split}.parquet"
        write_split(members, path)
        print(f"{split}: {len(members)} pairs {vendor_counts(members)}, {path.stat().st_size / 1e6:.2f} MB")
    save_tokenizer(train_tokenizer(drawing.emoji.caption for drawing in splits["train"]), arguments.out / "tokenizer")
    (arguments.out / "ATTRIBUTION.md").write_text(attribution(vendors, arguments.size))


def parse_arguments() -> argparse.Namespace:
    """Reads the command line; exits with code 2 where it asks for a set that may not be shipped."""
    parser = argparse.ArgumentParser(description="Builds a captioned image set from emoji drawn by several vendors.")
    parser.add_argument(
        "--vendors",
        choices=["permissive", "all"],
        default="permissive",
        help=f"permissive: {', '.join(PERMISSIVE)}, which may be shipped; all: also those whose licences ask for more "
        "(default: %(default)s)",
    )
    parser.add_argument("--size", type=int, default=EMBEDDED_SIZE, help="pixels a side (default: %(default)s)")
    parser.add_argument("--tones", action="store_true", help="include the variants by skin tone")
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="folder to write (default: inside the package)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "hive-emoji",
        help="folder that keeps the npm archives (default: %(default)s)",
    )
    arguments = parser.parse_args()
    embedded = arguments.vendors == "permissive" and arguments.size == EMBEDDED_SIZE and not arguments.tones
    if arguments.out.resolve() == EMBEDDED and not embedded:
        parser.error(
            f"only the permissive, untoned set at {EMBEDDED_SIZE} pixels goes into the package; "
            "name another folder with --out"
        )
    return arguments


def draw_all(vendors: Iterable[str], size: int, tones: bool, cache: Path) -> list[Drawing]:
    """Renders every emoji by every vendor that draws it, in CLDR's order; prints what was drawn and what was not."""
    icons = {vendor: read_icons(fetch(VENDORS[vendor].package, cache)) for vendor in vendors}
    drawings = []
    blank: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for emoji in read_emoji(fetch(NAMES, cache), tones):
        for vendor, drawn in icons.items():
            svg = drawn.svg(emoji)
            if svg is None:
                continue
            try:
                image = render(svg, size)
            except ValueError:
                failed[vendor] += 1
                continue
            if is_blank(image):
                blank[vendor] += 1
                continue
            drawings.append(Drawing(emoji, vendor, encode(image), drawn.is_alias(emoji)))
    print(f"drawn: {len(drawings)} {vendor_counts(drawings)}; blank: {dict(blank)}; failed: {dict(failed)}")
    return drawings


def vendor_counts(drawings: Iterable[Drawing]) -> dict[str, int]:
    """Returns how many drawings each vendor has."""
    return dict(sorted(Counter(drawing.vendor for drawing in drawings).items()))


if __name__ == "__main__":
    main()
