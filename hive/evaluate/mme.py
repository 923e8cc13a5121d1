"""MME (Fu et al. 2023): yes/no questions in 14 sub-tasks, two on each image."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from hive.data.templates import SHORT_ANSWER
from hive.errors import UserError
from hive.evaluate.benchmark import (
    Benchmark,
    Question,
    Score,
    check_images,
    check_root,
    damaged,
    percent,
)

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SOURCE = (
    "the 14 sub-task folders of MME_Benchmark_release_version, which its authors send on request "
    "(github.com/BradyFU/Awesome-Multimodal-Large-Language-Models)"
)
_SUFFIXES = (".jpg", ".png", ".jpeg")
_YES_NO = " Please answer yes or no."


def load(root: Path) -> list[Question]:
    """Returns both questions of every image, sub-task by sub-task."""
    check_root(root, SOURCE)
    missing = [task for task in PERCEPTION + COGNITION if not (root / task).is_dir()]
    if missing:
        raise UserError(f"--data-root {root} lacks {missing[0]}/: it has to hold {SOURCE}.")
    questions = [question for task in PERCEPTION + COGNITION for question in _read_task(root / task)]
    check_images(root, questions, "SUB-TASK/*.jpg or .png, or SUB-TASK/images/", SOURCE)
    return questions


def _read_task(folder: Path) -> list[Question]:
    """Returns the questions of one sub-task. Five sub-tasks keep texts and images in separate folders."""
    split = (folder / "questions_answers_YN").is_dir()
    texts = folder / "questions_answers_YN" if split else folder
    images = folder / "images" if split else folder
    paths = sorted(texts.glob("*.txt"))
    if not paths:
        raise UserError(
            f"--data-root {folder.parent} has no .txt file in {texts.relative_to(folder.parent)}/: fetch MME again."
        )
    return [question for path in paths for question in _read_image_questions(folder.name, path, images)]


def _read_image_questions(task: str, path: Path, images: Path) -> list[Question]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}): fetch MME again.") from None
    rows = [line.strip().split("\t") for line in lines]
    if len(rows) != 2 or any(len(row) != 2 or row[1].strip() not in ("Yes", "No") for row in rows):
        damaged(path, 'it does not have two lines, each "question<TAB>Yes" or "question<TAB>No"', SOURCE)
    image = next(
        (images / f"{path.stem}{suffix}" for suffix in _SUFFIXES if (images / f"{path.stem}{suffix}").exists()), None
    )
    return [
        Question(
            id=f"{task}/{path.stem}/{number}",
            prompt=text.strip().replace(_YES_NO, "") + SHORT_ANSWER,
            image=image or images / f"{path.stem}{_SUFFIXES[0]}",
            answers=(answer.strip().lower(),),
            group=task,
        )
        for number, (text, answer) in enumerate(rows, 1)
    ]


def parse(text: str) -> str | None:
    """Returns "yes" or else "no" if it is in the first four characters (official rule); None if neither is."""
    start = text.strip().lower()[:4]
    return next((word for word in ("yes", "no") if word in start), None)


def score(questions: Sequence[Question], texts: Mapping[str, str]) -> Score:
    """Returns the score of each sub-task, and the sums over perception, cognition and all.

    A sub-task scores 100 * accuracy + 100 * (share of images with both questions right), so 200 at most.
    The two questions of an image follow each other in `questions`.
    """
    rows = []
    for task in PERCEPTION + COGNITION:
        asked = [question for question in questions if question.group == task]
        images = [
            [parse(texts.get(question.id, "")) == question.answers[0] for question in both]
            for _, both in groupby(asked, key=lambda question: question.id.rpartition("/")[0])
        ]
        right, both_right = sum(map(sum, images)), sum(map(all, images))
        rows.append((task, percent(right, len(asked)) + percent(both_right, len(images)), len(asked)))
    parts = (("perception", rows[: len(PERCEPTION)]), ("cognition", rows[len(PERCEPTION) :]), ("sum", rows))
    sums = [(name, sum(row[1] for row in part), sum(row[2] for row in part)) for name, part in parts]
    return Score((*rows, *sums))


BENCHMARK = Benchmark("mme", load, parse, score, 2374, 16, {"Base": 1296, "SA": 1263, "HIVE": 1298})
