"""Tables: separators, headers and quotes as spreadsheets and scripts write them, and what is wrong with a row."""

import csv
import io
from pathlib import Path

import pytest

from hive.data.source import Columns, Source
from hive.data.sources.image_store import open_store
from hive.data.sources.table import open_table
from hive.errors import UserError
from tests.support.pairs_on_the_spot import encoded

UNNAMED = Columns()
CAPTIONS = ["a cat", 'it says "hi", twice', "two\nlines", "|;\t,", " é"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with photos/0.jpg to 4.jpg."""
    (tmp_path / "photos").mkdir()
    for number in range(5):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(encoded(number, "JPEG"))
    return tmp_path


def source(root: Path, content: str | bytes, name: str = "t.csv", columns: Columns = UNNAMED) -> Source:
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_table([root / name], open_store(root), columns)


def written(separator: str, header: tuple[str, str], end: str = "\r\n") -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    writer.writerow(header)
    writer.writerows([f"photos/{number}.jpg", caption] for number, caption in enumerate(CAPTIONS))
    return file.getvalue()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("header", [("filepath", "title"), ("image", "caption")])
def test_separators_whatever_the_name(root: Path, name: str, separator: str, header: tuple[str, str]) -> None:
    opened = source(root, written(separator, header), name)
    records = list(opened.records)
    assert [record.image for record in records] == [f"photos/{number}.jpg" for number in range(5)]
    assert [str(record.fields[header[1]]).strip() for record in records] == [caption.strip() for caption in CAPTIONS]
    assert [record.place for record in records] == [f"{name} line {number}" for number in (2, 3, 4, 6, 7)]
    assert opened.reader(3) == encoded(3, "JPEG")
    assert opened.count == 5


def test_what_windows_and_hands_write(root: Path) -> None:
    text = written(",", ("filepath", "title"))
    for content in (b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), text.replace("\r\n", "\n").encode()):
        assert [record.fault for record in source(root, content).records] == [None] * 5
    by_hand = 'Image, Caption\n\nphotos/0.jpg, "a cat, and a dog"\n\nphotos\\1.jpg , a dog'
    assert [(record.image, record.fields["caption"]) for record in source(root, by_hand).records] == [
        ("photos/0.jpg", "a cat, and a dog"),
        ("photos/1.jpg", "a dog"),
    ]


def test_faults_of_a_row(root: Path) -> None:
    """Each spoils its own row, and all others are read, even where a quote is never closed."""
    lines = [
        "image,caption,score",
        "photos/0.jpg,a cat,1",
        "photos/1.jpg,a cat, a dog,and more",
        'photos/1.jpg,"a" cat,1',
        'photos/1.jpg,"never closed,1',
        "photos/2.jpg,a dog,1",
        "photos/9.jpg,a cow,1",
        ",nothing,1",
        "photos/3.jpg",
        f"photos/3.jpg,{'x' * 200_000},1",
        "photos/4.jpg,caf\udce9,1",
        "photos/4.jpg,a hen,1,,",
    ]
    records = list(source(root, "\n".join(lines).encode(errors="surrogateescape")).records)
    assert [record.place for record in records] == [f"t.csv line {number}" for number in range(2, 13)]
    good = [(record.image, record.fields.get("caption")) for record in records if record.fault is None]
    assert good == [
        ("photos/0.jpg", "a cat"),
        ("photos/2.jpg", "a dog"),
        (None, "nothing"),
        ("photos/3.jpg", None),
        ("photos/4.jpg", "a hen"),
    ]
    reasons = {int(record.place.split()[-1]): str(record.fault) for record in records if record.fault is not None}
    for line, reason in {
        3: "has 4 fields, but there are 3 columns",
        4: "expected after",
        5: "the row is broken",
        7: "missing: photos/9.jpg",
        10: "field larger than field limit",
        11: "not UTF-8",
    }.items():
        assert reason in reasons.pop(line)
    assert not reasons
    tabs = 'image\tcaption\nphotos/0.jpg\t"Hello" he said\nphotos/1.jpg\t"a cat\nphotos/2.jpg\ta "dog"\n'
    assert [record.fields["caption"] for record in source(root, tabs).records] == [
        '"Hello" he said',
        '"a cat',
        'a "dog"',
    ]
    cut_off = list(source(root, 'image,caption\nphotos/0.jpg,"a cat\nphotos/1.jpg,a dog\n').records)
    assert [record.fault is None for record in cut_off] == [False, True]


@pytest.mark.parametrize("separator", ["\t", ","])
def test_a_quote_that_runs_over_other_rows_loses_none(root: Path, separator: str) -> None:
    """A caption begins with a quote and one two rows later ends in inches; csv would make one text of them."""
    rows = [("photos/0.jpg", '"so, he said'), ("photos/1.jpg", "a cat"), ("photos/2.jpg", 'a dog of 10"')]
    text = "".join(separator.join(row) + "\n" for row in [("image", "caption"), *rows])
    found = [record.fields.get("caption") for record in source(root, text).records]
    assert found == ([caption for _, caption in rows] if separator == "\t" else [None, "a cat", 'a dog of 10"'])
    quoted = 'image,caption\nphotos/0.jpg,"a text\nof two lines, with 0.jpg in it, and more"\n'
    assert [str(record.fields["caption"]).count("\n") for record in source(root, quoted).records] == [1]


def test_lines_before_the_header(root: Path) -> None:
    assert [record.image for record in source(root, "\nsep=;\nimage;caption\nphotos/0.jpg;x\n").records] == [
        "photos/0.jpg"
    ]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("photos/0.jpg,a cat\nphotos/1.jpg,a dog\n", Columns(), r"the columns photos/0.jpg, a cat in its first line"),
        ("url\tcaption\nx\ty\n", Columns(), "the columns url, caption .*--dataset.image-column"),
        ("image,label\nx,y\n", Columns(), "the columns image, label .*--dataset.caption-column"),
        ("image,caption\nx,y\n", Columns(caption="alt"), r"one for texts \(alt\)"),
        ("", Columns(), "names the columns  in its first line"),
    ],
)
def test_headers_that_are_none(root: Path, content: str, columns: Columns, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        source(root, content, columns=columns)
    assert str(error.value).count("\n") == 0


def test_columns_that_flags_name(root: Path) -> None:
    opened = source(root, "a;Title;image\nphotos/2.jpg;x, y;nowhere.jpg\n", columns=Columns("a", "Title"))
    assert [(record.image, record.fields["Title"]) for record in opened.records] == [("photos/2.jpg", "x, y")]


def test_a_root_that_the_paths_repeat(root: Path) -> None:
    (root / "t.csv").write_text(written("\t", ("filepath", "title")))
    with pytest.raises(UserError, match=f"photos/0.jpg is below {root}, so give --image-root {root}"):
        open_table([root / "t.csv"], open_store(root / "photos"), Columns())
