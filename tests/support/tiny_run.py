"""Runs of a few steps with a model of a few thousand weights."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from hive import checkpoint
from hive.command import exit_code, say_once
from hive.config import Config
from hive.data.text import Tokenizer
from hive.distributed import join_world
from hive.train.__main__ import run
from hive.train.cli import parse
from hive.train.pretraining import pretraining
from hive.train.task import Task
from hive.train.trainer import Trainer

Pretraining = Task[Config, Tokenizer]

FLAGS = """
--vision.image-size 16 --vision.hidden-size 16 --vision.layers 4 --vision.heads 2 --vision.mlp-size 32
--vision.patch-size 8 --vision.density 0.5
--language.hidden-size 24 --language.layers 4 --language.heads 2 --language.mlp-size 40
--batch-size 8 --micro-batch-size 4 --max-steps 4 --device cpu --dataset.workers 0 --dataset.heldout-pairs 8
"""
TINY = FLAGS.split()


def start(*flags: str, **environment: str) -> subprocess.Popen:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "hive.train", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(happened: Callable[[], object], process: subprocess.Popen, seconds: float = 60) -> None:
    """Polls fast, so that a kill can hit a moment; returns early when the process ends."""
    end = time.monotonic() + seconds
    while not happened() and process.poll() is None:
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.0005)


def records(run: Path, kind: str = "train") -> list[dict]:
    """The run's metrics without what the clock decides."""
    timed = {"images_per_second", "tokens_per_second", "tflops", "data_wait", "peak_memory_gb"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in timed}
        for line in lines
        if line["kind"].startswith(kind)
    ]


def last_checkpoint(run: Path) -> Path:
    """The newest checkpoint; a run without one fails the test."""
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    return newest


def losses(run: Path) -> list[float]:
    """Training losses in order."""
    return [record["loss"] for record in records(run)]


def train(flags: Sequence[str]) -> int:
    """`python -m hive.train` without the maps at its end, which take longer to draw than a tiny run to train."""
    return exit_code(lambda: run(parse(list(flags)), draw=lambda trained, heldout: "no maps"), say=say_once)


def train_task(flags: Sequence[str], change: Callable[[Pretraining], Pretraining]) -> int:
    """The training alone, of another task than the command line describes."""
    command = parse(list(flags))
    with join_world(command.config.device) as world:
        return Trainer(change(pretraining(command.config, False, world)), False, world, Console()).run()
