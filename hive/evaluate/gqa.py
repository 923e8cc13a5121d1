"""GQA (Hudson and Manning 2019): questions on scenes, the balanced test-dev split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hive.data.templates import SHORT_ANSWER
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

FIELDS = ("question", "imageId", "answer")
FILE = "testdev_balanced_questions.json"
SOURCE = f"{FILE} (from questions1.2.zip) and images/ (images.zip) of cs.stanford.edu/people/dorarad/gqa/download.html"


def load(root: Path) -> list[Question]:
    """Returns the test-dev questions in the file's order."""
    check_root(root, SOURCE)
    records = read_json(root, FILE, SOURCE)
    if not isinstance(records, dict) or not records:
        damaged(root / FILE, "it is no object of questions by id", SOURCE)
    questions = []
    for number, record in records.items():
        fields: list[Any] = [record.get(name) for name in FIELDS] if isinstance(record, dict) else [None]
        if not all(isinstance(value, str) for value in fields):
            damaged(root / FILE, f"question {number} lacks {', '.join(FIELDS[:-1])} or {FIELDS[-1]}", SOURCE)
        text, image, answer = fields
        if Path(image).name != image:
            damaged(root / FILE, f"question {number} has the imageId {image!r:.60}", SOURCE)
        questions.append(Question(number, text + SHORT_ANSWER, root / "images" / f"{image}.jpg", (answer,)))
    check_images(root, questions, "images/*.jpg", SOURCE)
    return questions


def parse(text: str) -> str | None:
    """Returns the text in lower case without full stops at its end, as LLaVA passes it to GQA's script."""
    return text.strip().rstrip(".").lower() or None


def score(questions: Sequence[Question], texts: Mapping[str, str]) -> Score:
    """Returns the accuracy by exact match, per cent."""
    right = sum(parse(texts.get(question.id, "")) == question.answers[0] for question in questions)
    return Score((("accuracy", percent(right, len(questions)), len(questions)),))


BENCHMARK = Benchmark("gqa", load, parse, score, 12_578, 16, {"Base": 57.74, "SA": 57.69, "HIVE": 58.05})
