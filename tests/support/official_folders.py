"""The benchmarks' official layouts, with a few questions each."""

import json
from pathlib import Path

from PIL import Image

from hive.evaluate import mme


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 14), colour).save(path)
    return path


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def make_mme(root: Path) -> Path:
    """Two images in `artwork` (split folders) and one in each other sub-task (flat)."""
    for task in mme.PERCEPTION + mme.COGNITION:
        split = task in ("artwork", "celebrity", "landmark", "posters", "scene")
        for number in range(2 if task == "artwork" else 1):
            picture(root / task / ("images" if split else "") / f"{number:04}{'.jpg' if split else '.png'}")
            text = root / task / ("questions_answers_YN" if split else "") / f"{number:04}.txt"
            text.parent.mkdir(exist_ok=True)
            text.write_text(
                f"Is this {task}? Please answer yes or no.\tYes\nIs this a cow? Please answer yes or no.\tNo\n"
            )
    return root


def make_gqa(root: Path) -> Path:
    records = {
        "201": {"question": "What colour is it?", "imageId": "n1", "answer": "red", "types": {"detailed": "x"}},
        "202": {"question": "Is it red?", "imageId": "n1", "answer": "yes"},
        "203": {"question": "What is there?", "imageId": "n2", "answer": "fire hydrant"},
    }
    write_json(root / "testdev_balanced_questions.json", records)
    for name in ("n1", "n2"):
        picture(root / "images" / f"{name}.jpg")
    return root


def make_okvqa(root: Path) -> Path:
    answers = (["pony tail"] * 4 + ["bun"] * 3 + ["braid"] * 2 + ["hair"], ["2"] * 10)
    questions = [
        {"image_id": 7, "question": "What is the hairstyle called?", "question_id": 71},
        {"image_id": 8, "question": "How many are there?", "question_id": 82},
    ]
    annotations = [
        {
            "question_id": question["question_id"],
            "answers": [{"answer": text, "answer_id": n} for n, text in enumerate(own, 1)],
        }
        for question, own in zip(questions, answers, strict=True)
    ]
    write_json(root / "OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    write_json(root / "mscoco_val2014_annotations.json", {"annotations": annotations})
    for number in (7, 8):
        picture(root / "val2014" / f"COCO_val2014_{number:012d}.jpg")
    return root


def make_scienceqa(root: Path) -> Path:
    problems = {
        "4": {"question": "Which?", "choices": ["cat", "dog"], "answer": 1, "image": "image.png", "hint": "A picture."},
        "5": {"question": "How far?", "choices": ["near", "far", "here"], "answer": 0, "image": None, "hint": ""},
        "6": {"question": "Training?", "choices": ["yes", "no"], "answer": 0, "image": None, "hint": ""},
    }
    write_json(root / "problems.json", problems)
    write_json(root / "pid_splits.json", {"train": ["6"], "test": ["4", "5"]})
    picture(root / "images" / "test" / "4" / "image.png")
    return root


MAKE = {"mme": make_mme, "gqa": make_gqa, "okvqa": make_okvqa, "scienceqa": make_scienceqa}
