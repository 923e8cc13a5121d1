"""Scores of a tower on three held-out splits: probes, answers to questions, its language model's caption loss."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from hive.claim.answers import TokenReader, TokenSource, answer, blind_source
from hive.claim.plan import Setting
from hive.claim.questions import Questions, make_questions
from hive.config import DataConfig, LanguageConfig, VisionConfig
from hive.data.images import BadImage, ImageSpec, load
from hive.data.ledger import Ledger
from hive.data.loader import heldout_batches
from hive.data.pairs import EMBEDDED_HELDOUT, Pairs, hash_order, open_pairs
from hive.data.text import load_configured_tokenizer
from hive.distributed import World
from hive.errors import UserError
from hive.probe.datasets.images import MAX_MEGAPIXELS, ImageReader, LabelledImages
from hive.probe.features import all_features
from hive.probe.fit import count_right, fresh_heads, train
from hive.probe.inputs import CachedSource, Source
from hive.probe.protocol import Protocol
from hive.probe.tower import ProbedTower
from hive.train.held_out import evaluate
from hive.train.trained import Run

TARGETS = ("group", "subgroup")
SPLITS = EMBEDDED_HELDOUT
VALIDATION_SHARE = 0.1  # of the training concepts: where learning rates are chosen


@dataclass(frozen=True)
class PairImages(ImageReader):
    """Images of image-caption pairs."""

    pairs: Pairs

    def pixels(self, row: int, spec: ImageSpec) -> torch.Tensor:
        try:
            return load(self.pairs.read(row), spec, MAX_MEGAPIXELS)
        except OSError as error:
            raise BadImage(f"can't be read ({error.strerror})") from None


@dataclass(frozen=True)
class EvaluationSet:
    """A set that tools/build_emoji.py wrote: images, captions, labels, and questions about each picture."""

    pairs: dict[str, Pairs]
    """By split: "train" and `SPLITS`."""
    classes: dict[str, np.ndarray]
    """By target: the names of its classes over all splits."""
    labels: dict[str, dict[str, np.ndarray]]
    """By target and split: the class of each pair, int64 [n]."""
    in_validation: np.ndarray
    """Whether a training pair is of a concept that learning rates are chosen on, bool [n]."""
    questions: Questions

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the images' names, captions, labels and questions."""
        labels = {target: {s: array.tolist() for s, array in splits.items()} for target, splits in self.labels.items()}
        pairs = {split: pairs.fingerprint for split, pairs in self.pairs.items()}
        parts = [pairs, labels, self.in_validation.tolist(), self.questions.fingerprint]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def majority(self, target: str, split: str) -> float:
        """Returns the share of the split that has the most frequent class of training."""
        largest, _ = Counter(self.labels[target]["train"].tolist()).most_common(1)[0]
        return float((self.labels[target][split] == largest).mean())


def open_set(folder: Path, language: LanguageConfig) -> EvaluationSet:
    """Reads labels and captions, and makes the questions, in the tokens of the language model's tokenizer.

    Raises `UserError` where a file, a column or the tokenizer is missing.
    """
    for split in ("train", *SPLITS):
        if not (folder / f"{split}.parquet").is_file():
            raise UserError(
                f"--data {folder} has no {split}.parquet: make it by python tools/build_emoji.py --vendors all --tones "
                f"--size 128 --out {folder}, or give another such folder."
            )
    pairs = {split: open_pairs(str(folder / f"{split}.parquet"), None, DataConfig()) for split in ("train", *SPLITS)}
    for split, of_split in pairs.items():
        if of_split.skipped:  # labels are found by the row of a pair
            place, reason, _ = of_split.skipped[0]
            raise UserError(f"{folder / split}.parquet has a record that can't be used, {place} ({reason}): mend it.")
    columns = {split: _read_columns(folder / f"{split}.parquet") for split in pairs}
    classes, labels = {}, {}
    for target in TARGETS:
        classes[target] = np.unique(np.concatenate([of_split[target] for of_split in columns.values()]))
        labels[target] = {
            split: np.searchsorted(classes[target], of_split[target]).astype(np.int64)
            for split, of_split in columns.items()
        }
    concepts = sorted(set(columns["train"]["concept"].tolist()))
    chosen = hash_order(concepts, 0)[: max(1, round(VALIDATION_SHARE * len(concepts)))]
    held_out = np.isin(columns["train"]["concept"], [concepts[place] for place in chosen])
    questions = make_questions(columns, held_out, load_configured_tokenizer(language))
    return EvaluationSet(pairs, classes, labels, held_out, questions)


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    names = ["caption", "concept", "tone", *TARGETS]
    present = pq.ParquetFile(path).schema_arrow.names
    for name in names:
        if name not in present:
            raise UserError(f'{path} has no column "{name}": give a folder that tools/build_emoji.py wrote.')
    table = pq.read_table(path, columns=names)
    return {name: np.asarray(table.column(name).to_pylist(), dtype=str) for name in names}


def evaluate_tower(
    tower: ProbedTower, data: EvaluationSet, setting: Setting, seed: int, workers: int
) -> dict[str, Any]:
    """Returns a frozen tower's scores: "probe" has the accuracy by target and split, "questions" by kind and split.

    Both have the learning rate that validation chose. A picture that can't be read counts as wrong. For the probe, so
    does a picture whose class no training picture has; `Questions` says which questions are not asked.
    """
    rows = {split: np.arange(len(pairs)) for split, pairs in data.pairs.items()}
    images = {
        split: LabelledImages(rows[split], pairs.names, PairImages(pairs), rows[split])
        for split, pairs in data.pairs.items()
    }
    features = all_features(tower, images, with_tokens=list(images), cache=None, workers=workers, say=lambda line: None)
    sources = {split: CachedSource(cached, ("attention",), tower.device) for split, cached in features.items()}
    readable = {split: np.flatnonzero(~cached.bad) for split, cached in features.items()}
    token_source = TokenSource(
        {split: _token_reader(source) for split, source in sources.items()},
        readable,
        tower.width,
        tower.heads,
        tower.device,
    )
    return {
        "probe": {target: _run_probe(tower, sources, readable, data, target, setting.probing) for target in TARGETS},
        "questions": answer(data.questions, token_source, setting.answering, seed),
    }


def _token_reader(source: CachedSource) -> TokenReader:
    return lambda rows: next(source.batches([rows]))["attention"]


def answer_blindly(
    vision: VisionConfig, data: EvaluationSet, answering: Protocol, seed: int, device: torch.device
) -> dict[str, Any]:
    """Returns the "questions" of `evaluate_tower`, trained and asked without pictures."""
    rows = {split: np.arange(len(pairs)) for split, pairs in data.pairs.items()}
    return answer(data.questions, blind_source(rows, vision.hidden_size, vision.heads, device), answering, seed)


def _run_probe(
    tower: ProbedTower,
    sources: Mapping[str, Source],
    readable: Mapping[str, np.ndarray],
    data: EvaluationSet,
    target: str,
    protocol: Protocol,
) -> dict[str, Any]:
    labels = data.labels[target]
    validation = data.in_validation[readable["train"]]
    heads = fresh_heads(("attention",), tower, len(data.classes[target]), protocol)
    train(heads, sources["train"], labels["train"], readable["train"][~validation], protocol, lambda line: None)

    def count(split: str, chosen: np.ndarray) -> torch.Tensor:
        return count_right(heads, sources[split], labels[split], chosen, protocol.batch_size)["attention"].double()

    points = count("train", readable["train"][validation]).mean(0) / max(1, int(validation.sum()))
    best = int(points.argmax())
    heads["attention"].keep(best)
    return {
        "accuracy": {split: float(count(split, readable[split]).mean()) / len(labels[split]) for split in SPLITS},
        "learning_rate": protocol.grid[best][0],
        "validation": points.tolist(),
    }


def caption_losses(run: Run, data: EvaluationSet, world: World) -> dict[str, dict[str, float | None]]:
    """Returns caption losses by name and split, nats a token over all pairs.

    "right" is with the pair's image, "wrong" with another pair's, "gain" is wrong minus right.
    """
    config = run.config
    losses: dict[str, dict[str, float | None]] = {"right": {}, "wrong": {}, "gain": {}}
    for split in SPLITS:
        pairs = data.pairs[split]
        batches = heldout_batches(
            pairs, run.tokenizer, run.spec, config.dataset, config.micro_batch_size, limit=len(pairs)
        )
        ledger = Ledger(run.folder, config.dataset.max_bad_share, size=len(pairs), writes=False)
        with torch.autocast("cuda", torch.bfloat16, enabled=world.device.type == "cuda"):
            result = evaluate(run.model, batches, world, ledger)
        ledger.check()
        losses["right"][split], losses["wrong"][split], losses["gain"][split] = result.right, result.wrong, result.gain
    return losses
