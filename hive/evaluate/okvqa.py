"""OK-VQA (Marino et al. 2019): questions on COCO images that need outside knowledge, ten annotators' answers each."""

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
from hive.evaluate.vqa_answers import normalise

QUESTIONS, ANNOTATIONS = "OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json"
SOURCE = f"{QUESTIONS} and {ANNOTATIONS} of okvqa.allenai.org, and val2014/ (val2014.zip of cocodataset.org)"


def load(root: Path) -> list[Question]:
    """Returns the validation questions in the file's order."""
    check_root(root, SOURCE)
    annotations = _read_records(root, ANNOTATIONS, "annotations")
    answers = {record["question_id"]: _read_answers(root, record) for record in annotations}
    questions = []
    for record in _read_records(root, QUESTIONS, "questions"):
        number, image, text = record["question_id"], record.get("image_id"), record.get("question")
        if not isinstance(image, int) or not isinstance(text, str):
            damaged(root / QUESTIONS, f"question {number} lacks question or image_id", SOURCE)
        if number not in answers:
            damaged(root / ANNOTATIONS, f"it has no annotation for question {number}", SOURCE)
        path = root / "val2014" / f"COCO_val2014_{image:012d}.jpg"
        questions.append(Question(str(number), text + SHORT_ANSWER, path, answers[number]))
    check_images(root, questions, "val2014/COCO_val2014_*.jpg", SOURCE)
    return questions


def _read_records(root: Path, name: str, key: str) -> list[dict[str, Any]]:
    content = read_json(root, name, SOURCE)
    records = content.get(key) if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        damaged(root / name, f'it has no list "{key}"', SOURCE)
    if not all(isinstance(record, dict) and isinstance(record.get("question_id"), int) for record in records):
        damaged(root / name, "a record lacks its question_id", SOURCE)
    return records


def _read_answers(root: Path, record: dict[str, Any]) -> tuple[str, ...]:
    answers = record.get("answers")
    items = answers if isinstance(answers, list) else []
    texts: list[Any] = [item.get("answer") if isinstance(item, dict) else None for item in items]
    if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        damaged(root / ANNOTATIONS, f"question {record['question_id']} lacks its annotators' answers", SOURCE)
    return tuple(texts)


def parse(text: str) -> str | None:
    """Returns the normalised text; None where nothing is left of it."""
    return normalise(text) or None


def score(questions: Sequence[Question], texts: Mapping[str, str]) -> Score:
    """Returns the VQA accuracy, per cent."""
    total = sum(vqa_accuracy(texts.get(question.id, ""), question.answers) for question in questions)
    return Score((("VQA accuracy", percent(total, len(questions)), len(questions)),))


def vqa_accuracy(text: str, answers: Sequence[str]) -> float:
    """Returns the mean over the annotators of min(1, matches among the others / 3), 0..1 (Antol et al. 2015)."""
    answer = parse(text)
    if answer is None:
        return 0.0
    matches = [normalise(other) == answer for other in answers]
    return sum(min(1.0, (sum(matches) - left_out) / 3) for left_out in matches) / len(matches)


BENCHMARK = Benchmark("okvqa", load, parse, score, 5046, 16, {"Base": 48.78, "SA": 46.19, "HIVE": 51.01})
