"""efficiency.json as tables, whatever measurements it holds."""

from collections.abc import Iterator
from typing import Any

from hive.report.html import Html, element, join, table


def measured(values: dict[str, Any]) -> Html:
    """Returns a table for every list of records, and one for all other numbers and texts."""
    lists = {
        name: value
        for name, value in values.items()
        if isinstance(value, list) and value and all(isinstance(record, dict) for record in value)
    }
    single = list(_leaves({name: value for name, value in values.items() if name not in lists}, ""))
    parts = [table(("", ""), single)] if single else []
    for name, records in lists.items():
        rows = [dict(_leaves(record, "")) for record in records]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        parts.append(element("h3", name))
        parts.append(table(columns, ([row.get(column, "") for column in columns] for row in rows)))
    return join(parts)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yields (path, text) of every number and text in nested JSON; list items count from 1."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value, 1):
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, f"{value:.6g}" if isinstance(value, float) else str(value)
