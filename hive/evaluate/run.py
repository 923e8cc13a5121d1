"""One evaluation: reads the questions, answers those that have no answer yet, scores all."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from hive.command import open_console
from hive.config import DataConfig
from hive.data.images import BadImage, decode
from hive.distributed import join_world
from hive.errors import UserError
from hive.evaluate.benchmark import Benchmark, Question
from hive.evaluate.benchmarks import BENCHMARKS
from hive.evaluate.cli import Command
from hive.evaluate.predictions import Manifest, Predictions, data_fingerprint, model_fingerprint
from hive.evaluate.report import report, table
from hive.files import replace_text

SCORE = "score.json"


def evaluate(command: Command) -> int:
    """Answers the questions that have no answer yet, then prints and saves the score; returns the exit code."""
    console = open_console()
    benchmark = BENCHMARKS[command.benchmark]
    questions = benchmark.load(command.data_root)
    if not (command.model / "config.json").is_file():
        raise UserError(f"--model {command.model} is no model folder: give RUN/llava of a python -m hive.vlm run.")
    with join_world(command.device) as world:
        if world.size > 1:
            raise UserError("python -m hive.evaluate runs in one process: start it without torchrun.")
        predictions = open_predictions(command, benchmark, questions, world.device)
        try:
            answer(command, benchmark, questions, predictions, world.device, console)
        except KeyboardInterrupt:
            _say(console, f"Saved {len(predictions.texts):,} answers. The same command continues from there.")
            return 130
    score = benchmark.score(questions, predictions.texts)
    folder = predictions.path.parent
    replace_text(folder / SCORE, json.dumps(asdict(score), indent=1) + "\n")
    _say(console, table(benchmark, score, predictions.model_id))
    if command.report:
        _say(console, "\n" + report(benchmark, questions, predictions.texts))
    _say(console, f"\npredictions  {predictions.path}")
    return 0


def open_predictions(
    command: Command, benchmark: Benchmark, questions: list[Question], device: torch.device
) -> Predictions:
    """Returns this model's answers to these questions, those of an interrupted evaluation included."""
    parts = command.model.resolve().parts[-2:]
    model_id = "-".join(part for part in parts if part != os.sep)
    manifest = Manifest(
        benchmark=benchmark.name,
        model=model_fingerprint(command.model),
        data=data_fingerprint(questions, command.data_root),
        precision="float32" if device.type == "cpu" else "bfloat16",
        max_new_tokens=benchmark.max_new_tokens,
    )
    folder = command.out or Path("runs") / "evaluation" / f"{model_id}-{benchmark.name}"
    return Predictions(folder, manifest, model_id)


def answer(
    command: Command,
    benchmark: Benchmark,
    questions: list[Question],
    predictions: Predictions,
    device: torch.device,
    console: Console,
) -> None:
    """Asks the questions that have no answer yet, and saves each batch; skips those whose image can't be read."""
    remaining = [question for question in questions if question.id not in predictions.texts]
    if not remaining:
        return
    if len(remaining) < len(questions):
        _say(console, f"{len(questions) - len(remaining):,} of {len(questions):,} answers are there already.")
    from hive.vlm.answering import Answerer

    answerer = Answerer(command.model, device)
    predictions.begin()
    size = command.batch_size
    batches = [remaining[start : start + size] for start in range(0, len(remaining), size)]
    for batch in track(batches, benchmark.name, console=console, disable=not console.is_terminal):
        pictures = [(question, images) for question in batch if (images := _read_images(question)) is not None]
        if pictures:
            texts = answerer([(question.prompt, images) for question, images in pictures], benchmark.max_new_tokens)
            predictions.add([question for question, _ in pictures], texts)


def _read_images(question: Question) -> list[Image.Image] | None:
    """Returns the question's image in a list, which is empty where it has none; None where it can't be read."""
    if question.image is None:
        return []
    try:
        return [decode(question.image.read_bytes(), DataConfig().max_megapixels)]
    except (OSError, BadImage):
        return None


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
