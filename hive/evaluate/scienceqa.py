"""ScienceQA (Lu et al. 2022): school questions with choices, half of them with an image; the test split."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hive.data.templates import LETTER_ANSWER
from hive.evaluate.benchmark import (
    Benchmark,
    Question,
    Score,
    check_images,
    check_root,
    damaged,
    percent,
    read_json,
)

PROBLEMS, SPLITS = "problems.json", "pid_splits.json"
SOURCE = f"{PROBLEMS} and {SPLITS} (data/scienceqa/ of github.com/lupantech/ScienceQA) and images/test/ (its test.zip)"
LETTERS = "ABCDE"
_SENTENCE = re.compile(r"The answer is ([A-Z]).")


def load(root: Path) -> list[Question]:
    """Returns the test questions in the split's order."""
    check_root(root, SOURCE)
    problems, splits = read_json(root, PROBLEMS, SOURCE), read_json(root, SPLITS, SOURCE)
    test = splits.get("test") if isinstance(splits, dict) else None
    if not isinstance(test, list) or not test or not all(isinstance(number, str) for number in test):
        damaged(root / SPLITS, 'it has no list "test" of ids', SOURCE)
    if not isinstance(problems, dict):
        damaged(root / PROBLEMS, "it is no object of problems by id", SOURCE)
    questions = [_make_question(root, number, problems.get(number)) for number in test]
    check_images(root, questions, "images/test/ID/image.png", SOURCE)
    return questions


def _make_question(root: Path, number: str, problem: Any) -> Question:
    """Returns a question whose prompt has context, question and choices, in the order of LLaVA-1.5 and lmms-eval."""
    if not isinstance(problem, dict):
        damaged(root / PROBLEMS, f"it lacks the test problem {number}", SOURCE)
    text, choices, answer = problem.get("question"), problem.get("choices"), problem.get("answer")
    image, hint = problem.get("image"), problem.get("hint") or ""
    if not isinstance(text, str) or not isinstance(choices, list) or not 1 < len(choices) <= len(LETTERS):
        damaged(root / PROBLEMS, f"problem {number} lacks its question or its choices", SOURCE)
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        damaged(root / PROBLEMS, f"the answer of problem {number} is none of its choices", SOURCE)
    if image is not None and (not isinstance(image, str) or Path(image).name != image):
        damaged(root / PROBLEMS, f"problem {number} has the image {image!r:.60}", SOURCE)
    context = f"Context: {hint}\n" if hint else ""
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    path = root / "images" / "test" / number / image if image else None
    return Question(number, f"{context}{text}\n{options}{LETTER_ANSWER}", path, (LETTERS[answer],))


def parse(text: str) -> str | None:
    """Returns the letter: the text itself, "X. " at its start, or the only "The answer is X."; else None (LLaVA).

    As in LLaVA's script, the last full stop may be any one character.
    """
    text = text.strip()
    if len(text) == 1 and text in LETTERS:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    letters = _SENTENCE.findall(text)
    return letters[0] if len(letters) == 1 else None


def score(questions: Sequence[Question], texts: Mapping[str, str]) -> Score:
    """Returns the accuracy, per cent, on the questions with an image and on all."""
    with_image = [question for question in questions if question.image is not None]
    rows = []
    for name, part in (("with an image", with_image), ("all", questions)):
        right = sum(parse(texts.get(question.id, "")) == question.answers[0] for question in part)
        rows.append((name, percent(right, len(part)), len(part)))
    return Score(tuple(rows))


BENCHMARK = Benchmark("scienceqa", load, parse, score, 4241, 16, {"Base": 62.34, "SA": 59.56, "HIVE": 63.12})
