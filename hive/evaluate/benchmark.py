"""What the four benchmarks have in common: questions, scores, and how official files are read."""

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
    """What the user says, without the image's placeholder."""
    image: Path | None
    """The image's file, which may be missing; None where the question has none."""
    answers: tuple[str, ...]
    """The right answer, or those of all annotators."""
    group: str = ""
    """MME's sub-task."""


@dataclass(frozen=True)
class Score:
    """What a benchmark's predictions are worth."""

    rows: tuple[tuple[str, float, int], ...]
    """(name, score, questions) of each part; the whole is the last."""

    @property
    def headline(self) -> float:
        """The number that Table 2 gives."""
        return self.rows[-1][1]


@dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read, asked and scored."""

    name: str
    load: Callable[[Path], list[Question]]
    """The questions below a data root, in the official order; `UserError` names the file that is missing or wrong."""
    parse: Callable[[str], str | None]
    """The answer that the model's text gives; None where there is none to be found."""
    score: Callable[[Sequence[Question], Mapping[str, str]], Score]
    """Questions and the model's texts by id; a question without a text counts as wrong."""
    questions: int
    """Number of questions in the official set."""
    max_new_tokens: int
    paper: Mapping[str, float]
    """Table 2's numbers by encoder."""


def percent(right: float, questions: int) -> float:
    """100 * right / questions; 0 where there are none."""
    return 100 * right / questions if questions else 0.0


def check_root(root: Path, source: str) -> None:
    """Refuses a data root that is no folder."""
    if not root.is_dir():
        raise UserError(f"--data-root {root} is not a folder: give the one that holds {source}.")


def read_json(root: Path, name: str, source: str) -> Any:
    """The content of an official JSON file; `UserError` says where to get the set."""
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
    """Refuses a root without any of the questions' images; single missing ones are counted later."""
    if not any(question.image is not None and question.image.is_file() for question in questions):
        raise UserError(f"--data-root {root} holds none of the images ({where}): it has to hold {source}.")


def damaged(path: Path, what: str, source: str) -> NoReturn:
    """Ends the reading of a file that is not what it should be."""
    raise UserError(f"{path} is not the official file, since {what}: fetch it again, from {source}.")
