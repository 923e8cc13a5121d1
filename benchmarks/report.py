"""The rows that benchmarks measure, as JSON and as a table. It needs no torch, since it also reads old results."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hive.files import replace_text

ROOT = Path(__file__).parent


@dataclass
class Row:
    """One peer in one case. A peer that is absent, fails or is wrong has no times."""

    case: str
    operation: str
    peer: str
    ours: bool
    status: str
    """``right``, ``wrong``, ``failed`` or ``absent``."""
    reason: str = ""
    error: float = math.nan
    """The largest error of outputs and gradients, in units of the allowed error."""
    median_ms: float = math.nan
    q20_ms: float = math.nan
    q80_ms: float = math.nan
    kept_bytes: int = -1
    """Memory that forward keeps for backward, without outputs; on a CPU what saved-tensor hooks see, without inputs."""
    extra_bytes: int = -1
    """The peak memory of backward beyond its results; measured on a GPU only."""
    host_us: float = math.nan
    """Median time that the host takes to queue a forward call; measured on a GPU only."""


def results_folder() -> Path:
    """Makes and returns the folder in HIVE_RESULTS, or benchmarks/results."""
    folder = Path(os.environ.get("HIVE_RESULTS") or ROOT / "results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON whole or not at all, since a run may be cut off while it writes. NaN becomes null."""
    replace_text(path, json.dumps(without_nan(content), indent=1) + "\n")


def rows_as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as dictionaries by field."""
    return [asdict(row) for row in rows]


def rows_from_json(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of :func:`rows_as_json`, whatever else their dictionaries hold; null becomes NaN."""
    names = [field.name for field in fields(Row)]

    def values(row: dict[str, Any]) -> dict[str, Any]:
        return {name: math.nan if row[name] is None else row[name] for name in names}

    return [Row(**values(row)) for row in rows]


def without_nan(value: Any) -> Any:
    """The value with None in the place of numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: Sequence[Row]) -> str:
    """The peers of each case, the fastest first, with our speed-up where our result and the peer's are both right."""
    heads = f"{'median ms':>10}{'20 %':>9}{'80 %':>9}{'kept MB':>9}{'extra MB':>10}{'host us':>9}"
    lines = [f"{'':32}{heads}  hive triton is"]
    for case in dict.fromkeys(row.case for row in rows):
        lines.append(case)
        of_case = [row for row in rows if row.case == case]
        ours = next((row.median_ms for row in of_case if row.peer == "hive triton" and row.status == "right"), math.nan)
        for row in sorted(of_case, key=lambda row: (row.status != "right", row.median_ms)):
            known = row.status == "right" and not row.ours and not math.isnan(ours)
            lines.append(line(row) + (f"  {row.median_ms / ours:.2f}x as fast" if known else ""))
    return "\n".join(lines)


def line(row: Row) -> str:
    """A row of the table, without the comparison."""
    if row.status != "right":
        return f"  {row.peer:30}{row.status}: {row.reason}"
    cells = f"{row.median_ms:10.3f}{row.q20_ms:9.3f}{row.q80_ms:9.3f}{_megabytes(row.kept_bytes):>9}"
    host = "-" if math.isnan(row.host_us) else f"{row.host_us:.1f}"
    return f"  {row.peer:30}{cells}{_megabytes(row.extra_bytes):>10}{host:>9}"


def _megabytes(count: int) -> str:
    return "-" if count < 0 else f"{count / 2**20:.1f}"
