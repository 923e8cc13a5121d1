"""HTML elements whose text is always escaped."""

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """Finished markup; any other string is text."""

    __slots__ = ()


def element(name: str, *content: str, **attributes: object) -> Html:
    """Returns <name attributes>content</name>; underscores in attribute names become hyphens, a last one is dropped."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{written}>{join(content)}</{name}>")


def join(content: Iterable[str]) -> Html:
    """Returns the parts as one markup: `Html` as it is, any other text escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in content))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: Iterable[int] = ()) -> Html:
    """Returns a table whose first column holds the rows' names; rows of the numbers `marked` are highlighted."""
    chosen = set(marked)
    lines = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell) for cell in row[1:]),
            **({"class_": "differs"} if number in chosen else {}),
        )
        for number, row in enumerate(rows)
    ]
    header = element("thead", element("tr", *(element("th", cell, scope="col") for cell in head)))
    return element("div", element("table", header, element("tbody", *lines)), class_="wide")
