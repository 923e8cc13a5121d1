"""Trains and evaluates the jobs that have no result yet, one after another; each result is one file."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hive.claim.cost import Texts, read_layer, run_cost
from hive.claim.evaluate import EvaluationSet, answer_blindly, caption_losses, evaluate_tower
from hive.claim.plan import Row, Setting
from hive.config import Config
from hive.distributed import World
from hive.errors import UserError
from hive.files import replace_text
from hive.model.families import fresh_vision
from hive.probe.tower import ProbedTower
from hive.run_folder import CONFIG_FILE, fingerprint, load_config
from hive.train.pretraining import pretraining
from hive.train.trained import load_run
from hive.train.trainer import Trainer

PLANNED, RESULT = "planned.sha256", "result.json"


class Stopped(Exception):  # noqa: N818  # nothing is wrong
    """Raised where a signal ended training, after a checkpoint was saved; the argument is the exit code."""


@dataclass(frozen=True)
class Job:
    """One row with one seed."""

    row: Row
    seed: int
    folder: Path
    planned: str
    """SHA-256 of everything that the result depends on."""

    @property
    def config(self) -> Config:
        """The run's configuration, with seed and folder."""
        return replace(self.row.config, seed=self.seed, out=self.folder)

    def result(self) -> dict[str, Any] | None:
        """Returns the job's result, None where it has none yet; raises `UserError` for a folder of another plan."""
        try:
            recorded = (self.folder / PLANNED).read_text()
        except FileNotFoundError:
            return None
        if recorded != self.planned:
            raise UserError(
                f"{self.folder} was made with other settings, data or version: give another --out, or delete it."
            )
        path = self.folder / RESULT
        return json.loads(path.read_text()) if path.exists() else None


def jobs(rows: Sequence[Row], seeds: Sequence[int], out: Path, data: EvaluationSet, setting: Setting) -> list[Job]:
    """Returns a job for each row and seed: all rows with the first seed, then with the next.

    A comparison that is stopped has then done about as many seeds of one row as of another.
    """
    shared = [data.fingerprint, asdict(setting.probing), asdict(setting.answering)]

    def planned(row: Row, seed: int) -> str:
        # The data's path is free to change, its content is not.
        parts = [fingerprint(replace(row.config, seed=seed)), row.pretrained, row.sees, *shared]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    return [Job(row, seed, out / f"{row.name}-{seed}", planned(row, seed)) for seed in seeds for row in rows]


def seeds_in(out: Path) -> list[int]:
    """Returns the seeds of the runs in the folder, sorted."""
    ends = {path.name.rpartition("-")[2] for path in out.glob("*-*")}
    return sorted(int(end) for end in ends if end.isdecimal())


def run_job(job: Job, data: EvaluationSet, texts: Texts, setting: Setting, world: World, console: Console) -> None:
    """Trains the job's run unless that is done, evaluates it, writes its result and deletes its checkpoints.

    Raises `Stopped` where a signal ended the training.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    replace_text(job.folder / PLANNED, job.planned)
    config = job.config
    result: dict[str, Any] = {"tower": job.row.name, "seed": job.seed, "steps": (), "images": 0, "flops": 0.0}
    if not job.row.sees:
        result["questions"] = answer_blindly(config.vision, data, setting.answering, job.seed, world.device)
    else:
        if job.row.pretrained:
            if not (job.folder / "tower").is_dir():  # a run writes it last
                _train(job, world, console)
            run = load_run(job.folder, world.device)
            tower = run.model.tower.model
            cost = run_cost(config, texts)
            result |= {"steps": cost.steps, "images": cost.images, "flops": cost.flops}
            result["loss"] = caption_losses(run, data, world)
        else:
            torch.manual_seed(job.seed)  # a run with this seed starts from the same tower
            tower = fresh_vision(config.vision)
        result["layer"] = read_layer(config)
        probed = ProbedTower(tower, result["layer"], world.device)
        result |= evaluate_tower(probed, data, setting, job.seed, config.dataset.workers)
    replace_text(job.folder / RESULT, json.dumps(result, indent=2) + "\n")
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)


def _train(job: Job, world: World, console: Console) -> None:
    resume = (job.folder / CONFIG_FILE).exists()
    config = replace(job.config, export_model=False)  # the tower is what is evaluated
    if resume:
        config = replace(load_config(job.folder, Config), out=job.folder, data=config.data, kernel=config.kernel)
    code = Trainer(pretraining(config, resume, world), resume, world, console).run()
    if code:
        raise Stopped(code)


def run_all(
    todo: Sequence[Job],
    data: EvaluationSet,
    texts: Texts,
    setting: Setting,
    world: World,
    console: Console,
    say: Callable[[str], None],
) -> None:
    """Runs every job that has no result yet; `say` gets each line of progress."""
    missing = [job for job in todo if job.result() is None]  # raises for another plan's folder before anything runs
    if len(missing) < len(todo):
        say(f"{len(todo) - len(missing)} of {len(todo)} are done already")
    for number, job in enumerate(missing, 1):
        say(f"\n== {number}/{len(missing)}: {job.row.name}, seed {job.seed} ({job.row.words})")
        run_job(job, data, texts, setting, world, console)
