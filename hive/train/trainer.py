"""The training loop: a task's stages in order, each with checkpoints and an evaluation."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console

from hive.checkpoint import CheckpointError
from hive.config import RunConfig
from hive.config_json import to_json
from hive.data.ledger import Ledger, check_skipped
from hive.data.loader import heldout_batches
from hive.data.prefetch import Prefetcher
from hive.data.text import Batch, Encoder
from hive.distributed import World
from hive.errors import UserError
from hive.export.place import free_place
from hive.files import replace_text
from hive.model.hive import HiveModel
from hive.model_folder import export_model
from hive.optimizer import learning_rate
from hive.profiling import StepProfiler
from hive.run_folder import CONFIG_FILE, START, make_run_folder
from hive.train.data_summary import summarise_data
from hive.train.held_out import evaluate, table
from hive.train.injection import check_injection, describe, record_check
from hive.train.loss_curve import plot_losses
from hive.train.meter import Meter
from hive.train.setup import check_frozen_precision
from hive.train.stage import Stage, begin_stage, stage_batches, stage_step, summary
from hive.train.state import Position, State, fingerprints, restore, save
from hive.train.task import Task
from hive.train.telemetry import Telemetry
from hive.train.trackers import open_trackers

READ_LOSSES_EVERY = 10  # steps: reading a loss makes the host wait for the GPU


class Trainer:
    """Runs a task: loops over its stages and keeps the position in them."""

    def __init__(
        self, task: Task[RunConfig, Encoder], resume: bool, world: World, console: Console, *, profile: bool = False
    ) -> None:
        """Raises `UserError` for every mistake that shows before anything is written, then opens the run folder.

        With `resume` the run continues in its folder, from the newest whole checkpoint. `profile` records three steps.
        """
        self.task, self.world = task, world
        self.fingerprints = fingerprints(task)
        config = task.config
        state = State(Position(config.stages[0]))
        if resume and config.out is not None:
            state = restore(task, config.out, self.fingerprints, console.print)
        self.position = state.position
        self.optimizer_state = state.optimizer  # for the first stage that is trained, which takes it
        if any("tower" not in task.trained_parts(stage) for stage in self._stages_left()):
            check_frozen_precision(config, task.model)
        self.prefetch = Prefetcher(world.device)
        self.stopped_by: int | None = None
        sets = {id(data): data for data in task.sets.values()}.values()
        size = sum(len(pairs) for data in sets for pairs in (data.pairs, *data.heldout.values()))
        skipped = [record for data in sets for record in data.pairs.skipped]
        share = config.dataset.max_bad_share
        check_skipped(skipped, size, share)

        self.folder: Path = world.from_main(make_run_folder(config) if world.is_main else Path())
        self.ledger = Ledger(self.folder, share, size=size, skipped=skipped, writes=world.is_main, **state.ledger)
        if world.any(self.ledger.exceeded):
            raise self.share_error()  # it stopped the run that is resumed
        step = self.position.step
        trackers = open_trackers(config, self.folder, step) if world.is_main else []
        self.telemetry = Telemetry(self.folder, console, last_step=step, is_main=world.is_main, trackers=trackers)
        if world.is_main:  # last, because a folder with a configuration is a run, which a new one refuses
            if task.start is not None:
                export_model(task.start, self.folder / START)
            replace_text(self.folder / CONFIG_FILE, to_json(config))
        self.profiler = StepProfiler(self.folder, world.device) if profile and world.is_main else None

    def _stages_left(self) -> list[int]:
        return [stage for stage in self.task.config.stages if stage >= self.position.stage]

    # ------------------------------------------------------------------------------------------------------- the run

    def run(self) -> int:
        """Trains the stages that are left; returns the exit code."""
        self.telemetry.say(introduction(self.task, self.world, self.position.stage, self.folder))
        if self.world.is_main:
            self.telemetry.say(summarise_data(self.task))
            self.warn_of_taken_places()
        try:
            with handling_signals(self.stop):
                for stage in self._stages_left():
                    if not self.run_stage(stage):
                        step, program = self.position.step, self.task.program
                        self.telemetry.say(f"Saved at step {step}. Continue with: {program} --resume {self.folder}")
                        return 128 + (self.stopped_by or signal.SIGTERM)
                if self.world.is_main:
                    exported, curve = self.task.export(self.folder, self.position.step), plot_losses(self.folder)
                    self.telemetry.show_picture("loss curve", curve, self.position.step)
                    self.telemetry.say(f"{exported}\nloss curve  {curve}")
                self.world.barrier()
        finally:
            if self.profiler is not None:
                self.profiler.close()
                self.telemetry.say(self.profiler.summary())
            self.telemetry.close()
        return 0

    def warn_of_taken_places(self) -> None:
        """Says where the export will go where something else is in its place already."""
        for name in self.task.export_folders:
            place = free_place(self.folder / name)
            if place.name != name:
                self.telemetry.say(
                    f"warning: {self.folder / name} is no export that HIVE wrote and nobody changed since. It stays as "
                    f"it is; what this run exports will be in {place}."
                )

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: the run saves and exits after the current step; the same signal again kills the process."""
        self.stopped_by = number
        signal.signal(number, signal.SIG_DFL)

    # ------------------------------------------------------------------------------------------------------- a stage

    def run_stage(self, number: int) -> bool:
        """Trains and evaluates a stage; False if a signal stopped it before its end."""
        saved, self.optimizer_state = self.optimizer_state, {}
        if number > self.position.stage:
            self.position = Position(number, 0, self.position.step)
            saved = {}  # it is of the stage that was finished
        stage = begin_stage(self.task, number, saved)
        if not self.train_stage(stage):
            return False
        self.evaluate(stage)
        return True

    def train_stage(self, stage: Stage) -> bool:
        """Trains a stage and saves a checkpoint; False if a signal stopped it, which is saved too."""
        position = self.position
        if position.stage_step >= stage.steps:
            return True  # resumed after the stage's last step
        self.telemetry.say(summary(stage, self.task))
        self.telemetry.start_stage(stage.number, position.stage_step, stage.steps)

        steps_left = stage.steps - position.stage_step
        with closing(
            stage_batches(self.task, stage, self.world, first_step=position.stage_step, steps=steps_left)
        ) as data:
            return self.train_steps(stage, data)

    def train_steps(self, stage: Stage, data: Iterable[list[Batch]]) -> bool:
        """Takes the steps of a stage that are left; the rest is as in `train_stage`."""
        config, schedule, position = self.task.config, stage.schedule, self.position
        meter = Meter(
            self.telemetry,
            self.world,
            lambda batch: self.task.flops(batch, stage.parts),
            stage=stage.number,
            done=position.stage_step,
            steps=stage.steps,
        )
        report_every = 1 if self.world.device.type == "cpu" else READ_LOSSES_EVERY
        last_saved, stopping, too_bad = position.step, False, False
        idle = 0  # steps without an update since the last one
        for micro_batches in meter.timed(data):
            if self.profiler is not None:
                self.profiler.step()
            if position.stage_step == 0:
                with meter.paused():
                    self.check_injection(stage, micro_batches)
            rate = learning_rate(schedule, position.stage_step, stage.steps)
            result = self.train_step(stage, micro_batches, rate)
            position.step += 1
            position.stage_step += 1
            meter.add(micro_batches, result, position.step, rate)
            finished = position.stage_step == stage.steps
            stopping = self.world.any(self.stopped_by is not None)
            save_now = position.step - last_saved >= config.save_every or stopping or finished
            idle = 0 if result is not None else idle + 1
            unusable = idle * schedule.batch_size >= len(stage.data.pairs) or idle == stage.steps
            if save_now or unusable or position.stage_step % report_every == 0:
                meter.report(self.ledger)
                self.tell_bad_sample()
                too_bad = self.world.any(self.ledger.exceeded)
            if unusable:
                raise self.data_error(micro_batches)
            if finished or stopping or too_bad:
                break
            if save_now:
                last_saved = position.step
                self.save_checkpoint(stage, or_warn=True)
        if self.profiler is not None:
            self.profiler.close()
        self.telemetry.end_stage()
        self.telemetry.say(meter.summary())
        if self.ledger.bad:
            self.telemetry.say(f"bad samples so far: {self.ledger.bad:,}, listed in {self.ledger.path}")
        self.save_checkpoint(stage, or_warn=False)
        if too_bad:
            raise self.share_error()
        return not stopping

    def tell_bad_sample(self) -> None:
        """Says at the first bad sample of a run that there is one."""
        if news := self.ledger.take_news():
            self.telemetry.say(news)

    def share_error(self) -> UserError:
        """The error of too many bad samples, to be raised where the run can be resumed from the step it is at."""
        return UserError(
            f"{self.ledger.describe_excess()}: mend or remove them and start again, or continue with "
            f"{self.task.program} --resume {self.folder} --dataset.max-bad-share and a higher share."
        )

    def data_error(self, micro_batches: Sequence[Batch]) -> UserError:
        """The error after a whole pass over the data, or a whole stage, without an update."""
        bad = [f", such as {name} ({reason})" for batch in micro_batches for _, name, reason in batch.bad]
        return UserError(
            f"No step so far had a sample that can be used{bad[0] if bad else ''}: mend the {self.task.unit}, or give "
            f"other data; see {self.ledger.path}."
        )

    def check_injection(self, stage: Stage, micro_batches: Sequence[Batch]) -> None:
        """Prints and records what the images add before the stage's first step, where the method injects them.

        The first process does it alone, on the first of its micro-batches with a supervised token.
        """
        model, step = self.task.model, self.position.step
        if not self.world.is_main or not isinstance(model, HiveModel):
            return
        batch = next((batch for batch in micro_batches if batch.token_count), None)
        if batch is None:
            self.telemetry.say("injection: not checked, because no sample of the first step can be used")
            return
        earlier = [self.task.trained_parts(number) for number in range(1, stage.number)] if step else []
        learned = any(parts & {"fusion", "language"} for parts in earlier)
        check = check_injection(
            model,
            batch.to(self.world.device),
            stage.encode,
            stage=stage.number,
            step=step,
            trained=learned or self.task.continues or self.task.config.language.weights is not None,
            continues=self.task.continues,
        )
        self.telemetry.say(describe(check))
        record_check(check, self.folder)

    def train_step(
        self, stage: Stage, micro_batches: Sequence[Batch], rate: float
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Takes the next optimiser step at learning rate `rate`; returns what `stage_step` does."""
        result = stage_step(self.task, stage, micro_batches, rate, world=self.world, prefetch=self.prefetch)
        if result is None:
            self.telemetry.say(f"step {self.position.step + 1}: no update, since none of its samples can be used")
        return result

    def save_checkpoint(self, stage: Stage, *, or_warn: bool) -> None:
        """Saves a checkpoint. With `or_warn` a failed write prints a warning, so that training goes on."""
        if self.world.is_main:
            try:
                save(self.task, stage, self.position, self.ledger, self.folder, self.fingerprints)
            except CheckpointError as error:
                if not or_warn:
                    raise
                self.telemetry.say(f"warning: {error}")
        self.world.barrier()

    def evaluate(self, stage: Stage) -> None:
        """Records and prints the held-out loss of every split, but computes only those that aren't recorded yet."""
        step, config = self.position.step, self.task.config
        results = self.world.from_main(self.telemetry.held_out_at(step) if self.world.is_main else {})
        for split, pairs in stage.data.heldout.items():
            if split in results:
                continue
            data = heldout_batches(
                pairs,
                self.task.tokenizer,
                self.task.model.tower.spec,
                config.dataset,
                config.micro_batch_size,
                config.dataset.heldout_pairs,
            )
            with torch.autocast("cuda", torch.bfloat16, enabled=self.world.device.type == "cuda"):
                results[split] = evaluate(self.task.model, data, self.world, self.ledger, stage.encode)
            self.telemetry.record_held_out(split, results[split], step=step, stage=stage.number)
        self.telemetry.say(table(results))
        self.tell_bad_sample()
        if self.world.any(self.ledger.exceeded):
            raise self.share_error()


@contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, the signals that ask a run to save call `handler`; afterwards they do what they did before."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)  # None: set outside of Python


def introduction(task: Task[RunConfig, Encoder], world: World, stage: int, folder: Path) -> str:
    """Two lines: recipe, method, device, precision, kernel and data; and the run folder."""
    device, config = world.device, task.config
    precision = "bf16 autocast, fp32 weights" if device.type == "cuda" else "fp32"
    if config.vision.frozen_precision != "autocast":
        precision += f", frozen tower in {config.vision.frozen_precision}"
    return (
        f"{config.recipe}: {config.trains} on {device_name(device)}, {precision}, kernel {config.kernel}, "
        f"{len(task.sets[stage].pairs):,} training {task.unit}\nrun folder {folder}"
    )


def device_name(device: torch.device) -> str:
    """What a person calls the device; on a CPU also its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple's GPU" if device.type == "mps" else f"CPU, threads: {torch.get_num_threads()}"
