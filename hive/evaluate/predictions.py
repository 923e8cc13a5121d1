"""Predictions as JSON lines in LLaVA's form, and a manifest of the model and the questions that they belong to."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hive.errors import UserError
from hive.evaluate.benchmark import Question
from hive.files import keep_records, read_records, replace_text

PREDICTIONS, MANIFEST = "predictions.jsonl", "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """Everything that the answers depend on."""

    benchmark: str
    model: str
    """`model_fingerprint`."""
    data: str
    """`data_fingerprint`."""
    precision: str
    """torch's name of the dtype that the model ran in."""
    max_new_tokens: int


_DIFFERENCES = {
    "benchmark": "another benchmark",
    "model": "another model",
    "data": "another data set",
    "precision": "another precision",
    "max_new_tokens": "another length of answers",
}


def model_fingerprint(folder: Path) -> str:
    """Returns the SHA-256 over names and contents of the files directly in a model's folder, without hidden ones."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def data_fingerprint(questions: Sequence[Question], root: Path) -> str:
    """Returns the SHA-256 over all questions: ids, prompts, answers, and each image's path below the root."""
    digest = hashlib.sha256()
    for question in questions:
        image = question.image.relative_to(root).as_posix() if question.image else None
        digest.update(json.dumps([question.id, question.prompt, question.answers, image]).encode() + b"\n")
    return digest.hexdigest()


class Predictions:
    """The answers so far, on disk and in memory (`texts`, by question id)."""

    def __init__(self, folder: Path, manifest: Manifest, model_id: str) -> None:
        """Opens a new or an interrupted evaluation; raises `UserError` where the folder has other predictions."""
        self.path, self.manifest, self.model_id = folder / PREDICTIONS, manifest, model_id
        if (folder / MANIFEST).exists() or self.path.exists():
            _check_manifest(folder, manifest)
            keep_records(self.path, lambda record: True)  # a kill may have cut the last line
        self.texts = _read_texts(self.path)

    def begin(self) -> None:
        """Creates the folder and its manifest where they are missing."""
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MANIFEST).exists():
            replace_text(folder / MANIFEST, json.dumps(asdict(self.manifest), indent=1) + "\n")

    def add(self, questions: Sequence[Question], texts: Sequence[str]) -> None:
        """Appends a batch of answers to the file, a line each; opening removes a line that a kill has cut short."""
        lines = []
        for question, text in zip(questions, texts, strict=True):
            key = f"{self.manifest.model} {question.id}"
            lines.append(
                {
                    "question_id": question.id,
                    "prompt": question.prompt,
                    "text": text,
                    "answer_id": hashlib.sha256(key.encode()).hexdigest()[:22],
                    "model_id": self.model_id,
                    "metadata": {"benchmark": self.manifest.benchmark},
                }
            )
            self.texts[question.id] = text
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))


def _read_texts(path: Path) -> dict[str, str]:
    """Returns the model's text by question id."""
    texts: dict[str, str] = {}
    for record in read_records(path):
        question, text = (record.get("question_id"), record.get("text")) if isinstance(record, dict) else (None, None)
        if not isinstance(question, str) or not isinstance(text, str):
            raise UserError(f"{path} has a line that is no prediction of HIVE's: give another folder in --out.")
        texts[question] = text
    return texts


def _check_manifest(folder: Path, manifest: Manifest) -> None:
    try:
        saved = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        differing = [name for name, value in asdict(manifest).items() if saved[name] != value]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder} holds predictions without a readable {MANIFEST}, so it is unknown which model made them: "
            "give another folder in --out."
        ) from None
    if differing:
        raise UserError(f"{folder} holds predictions of {_DIFFERENCES[differing[0]]}: give another folder in --out.")
