"""The files that a flag names: by path, glob or braces, with :: between them, or those in a folder."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

from hive.errors import UserError

SEPARATOR = "::"


def expand(data: str, flag: str, allowed: str) -> list[Path]:
    """The files and folders that `flag` names, each once, in order; those of a glob are sorted and without leftovers.

    A name that is there as it is written is no pattern. Names compare in Unicode's normal form NFC. Raises `UserError`
    where any is missing; `allowed` is what the flag may be.
    """
    if data.strip() and (whole := on_disk(Path(data).expanduser())) is not None:
        return [whole]
    paths: dict[Path, None] = {}
    names = missing = 0
    example = ""
    for part in data.split(SEPARATOR):
        for name in _expand_braces(part, flag):
            matches = _match(name)
            if not matches:
                missing, example = missing + 1, example or name
            names += max(1, len(matches))
            paths |= dict.fromkeys(matches)
    if not missing:
        return list(paths)
    if names > 1:
        raise UserError(
            f"{flag} {data} names {names} files, of which {missing} do not exist, such as "
            f"{example or 'an empty name'}: give the names of existing files."
        )
    if glob.has_magic(example):
        raise UserError(f"{flag} {data} matches no file: give the path or glob of existing files.")
    raise UserError(f"{flag} {data} does not exist: give {allowed}.")


def on_disk(path: Path) -> Path | None:
    """The path as its names are spelled on disk, which may have another normal form; None where it isn't there."""
    if path.exists():
        return path
    if str(path).isascii() or path.parent == path:
        return None
    folder = on_disk(path.parent)
    if folder is None or not folder.is_dir():
        return None
    name = normalize("NFC", path.name)
    return next((entry for entry in sorted(folder.iterdir()) if normalize("NFC", entry.name) == name), None)


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and in those in it, links followed, sorted and without leftovers."""
    return _drop_leftovers(sorted(_walk(folder, set())), folder)


def _walk(folder: Path, above: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder above
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, {*above, real})
        else:
            yield entry


def _expand_braces(part: str, flag: str) -> Iterator[str]:
    if "{" not in part or on_disk(Path(part).expanduser()) is not None:
        yield part
        return
    from braceexpand import braceexpand  # a GPU machine may lack it (docs/gpu.md)

    try:
        yield from braceexpand(part, escape=False)
    except ValueError:
        raise UserError(
            f"{flag} {part} has a brace without its partner: write a range as {{00000..00099}}.tar or names as "
            "{a,b}.json."
        ) from None


def _match(name: str) -> list[Path]:
    """The file or folder of this name, or the sorted matches of a glob."""
    if not name.strip():
        return []
    path = Path(name).expanduser()
    if (there := on_disk(path)) is not None:
        return [there]
    first = next((place for place, part in enumerate(path.parts) if glob.has_magic(part)), None)
    if first is None or (start := on_disk(Path(*path.parts[:first]))) is None:
        return []
    pattern = os.path.join(*path.parts[first:])
    spellings = {pattern, normalize("NFC", pattern), normalize("NFD", pattern)}
    matches = {start / match for spelling in spellings for match in glob.glob(spelling, root_dir=start, recursive=True)}
    return _drop_leftovers(sorted(matches), start)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is one that macOS leaves behind, or hidden."""
    return name.startswith(".") or name == "__MACOSX"


def _drop_leftovers(files: Sequence[Path], root: Path) -> list[Path]:
    """Without what macOS leaves behind, and img2dataset's tables and statistics beside its shards."""
    shards = {file.with_suffix("") for file in files if file.suffix.lower() == ".tar"}
    return [
        file
        for file in files
        if not any(map(is_leftover, file.relative_to(root).parts))
        and not (file.suffix == ".parquet" and file.with_suffix("") in shards)
        and not (file.name.endswith("_stats.json") and file.with_name(file.name.removesuffix("_stats.json")) in shards)
    ]
