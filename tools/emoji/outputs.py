"""Writes a build's files: one Parquet file a split, and the text of ATTRIBUTION.md."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from emoji.packages import NAMES, VENDORS
from emoji.splits import Drawing

SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("caption", pa.string()),
        ("concept", pa.string()),
        ("vendor", pa.string()),
        ("group", pa.string()),
        ("subgroup", pa.string()),
        ("tone", pa.string()),
        ("tags", pa.list_(pa.string())),
    ]
)
ROW_GROUP = 512
"""Rows that a reader must fetch to read one of them: about half a megabyte at 64 pixels."""


def write_split(drawings: Iterable[Drawing], path: Path) -> None:
    """Writes drawings as Parquet, in CLDR's order and then by vendor; the same drawings give the same bytes."""
    ordered = sorted(drawings, key=lambda drawing: (drawing.emoji.order, drawing.vendor))
    rows = [
        {
            "image": drawing.image,
            "caption": drawing.emoji.caption,
            "concept": drawing.emoji.concept,
            "vendor": drawing.vendor,
            "group": drawing.emoji.group,
            "subgroup": drawing.emoji.subgroup,
            "tone": drawing.emoji.tone,
            "tags": list(drawing.emoji.tags),
        }
        for drawing in ordered
    ]
    # Parquet names a list's strings "tags.list.element". Images are compressed already, and statistics on them would
    # only repeat two of them in every footer.
    text = [name for name in SCHEMA.names if name not in ("image", "tags")] + ["tags.list.element"]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=SCHEMA),
        path,
        row_group_size=ROW_GROUP,
        compression={"image": "none"} | dict.fromkeys(text, "zstd"),
        use_dictionary=text,
        write_statistics=text,
    )


def attribution(vendors: Iterable[str], size: int) -> str:
    """Returns the text of ATTRIBUTION.md: where the drawings and names are from, their licences, what was changed."""
    lines = [
        "# Where these files come from",
        "",
        "Written by `tools/build_emoji.py`. `LICENSES/` has the texts, where the set is shipped with the package.",
        "",
        "| What | Author | Licence | npm package |",
        "|---|---|---|---|",
    ]
    for name in vendors:
        vendor = VENDORS[name]
        package = f"{vendor.package.name}@{vendor.package.version}"
        lines.append(f"| {vendor.title} (`{name}`) | {vendor.author} | {vendor.licence} | {package} |")
    lines += [
        f"| Captions and tags, as packaged by emojibase | Miles Johnson | MIT | {NAMES.name}@{NAMES.version} |",
        "| Captions and tags, from CLDR | Unicode, Inc. | Unicode-3.0 | in the same |",
        "",
        f"The drawings were changed: rendered from SVG at {size} by {size} pixels on white. "
        "Repeated and blank pictures were left out.",
        "",
    ]
    return "\n".join(lines)
