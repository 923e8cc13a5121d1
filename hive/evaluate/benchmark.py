"""A benchmark as a record: how its official files are read, what is asked, how answers are scored."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hive.errors import UserError, first_line
from hive.files import has_surrogate


@dataclass(frozen=True)
class Question:
    """One question of a benchmark."""

    id: str
    """Unique in the benchmark."""
    prompt: str
    """The user's text, without the image's placeholder."""
    image: Path | None
    """The image's file, which may be missing; None where the question has none."""
    answers: tuple[str, ...]
    """The right answer, or those of all annotators."""
    group: str = ""
    """MME's sub-task."""


@dataclass(frozen=True)
class Score:
    """The score of a model's predictions."""

    rows: tuple[tuple[str, float, int], ...]
    """(name, score, number of questions) of each part; the last is the whole benchmark."""

    @property
    def headline(self) -> float:
        """The score of the whole benchmark, which compares with the paper's Table 2."""
        return self.rows[-1][1]


@dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read, asked and scored."""

    name: str
    load: Callable[[Path], list[Question]]
    """Returns a data root's questions, in the official order; `UserError` names a file that is missing or wrong."""
    parse: Callable[[str], str | None]
    """Returns the answer in the model's text; None where it has none of the expected form."""
    score: Callable[[Sequence[Question], Mapping[str, str]], Score]
    """Returns the score of the model's texts, by question id; a question without a text counts as wrong."""
    questions: int
    """Number of questions in the official set."""
    max_new_tokens: int
    paper: Mapping[str, float]
    """Table 2's numbers by encoder."""


def percent(right: float, questions: int) -> float:
    """Returns 100 * right / questions, or 0 where there are no questions."""
    return 100 * right / questions if questions else 0.0


def check_root(root: Path, source: str) -> None:
    """Raises `UserError` where the data root is not a folder."""
    if not root.is_dir():
        raise UserError(f"--data-root {root} is not a folder: give the one that holds {source}.")


def read_json(root: Path, name: str, source: str) -> Any:
    """Returns the content of an official JSON file; `UserError` says where to get it if it can't be read."""
    path = root / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--data-root {root} lacks {name}: it has to hold {source}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} can't be read as JSON ({first_line(error):.120}): fetch it again, from {source}."
        ) from None
    if has_surrogate(json.dumps(content, ensure_ascii=False)):
        damaged(path, "it has half of a surrogate pair, which is no character", source)
    return content


def check_images(root: Path, questions: Sequence[Question], where: str, source: str) -> None:
    """Raises `UserError` where all of the questions' images are missing; single missing ones are counted later."""
    if not any(question.image is not None and question.image.is_file() for question in questions):
        raise UserError(f"--data-root {root} holds none of the images ({where}): it has to hold {source}.")


def damaged(path: Path, what: str, source: str) -> NoReturn:
    """Raises the `UserError` for a file that is not the official one; `what` says how it differs."""
    raise UserError(f"{path} is not the official file, since {what}: fetch it again, from {source}.")
