"""The run: three stages of training, each with its evaluation and checkpoints. Read top to bottom."""

import dataclasses
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from hive import checkpoint
from hive.config import Config, to_json
from hive.data.images import ImageSpec
from hive.data.ledger import Ledger
from hive.data.loader import batches, heldout_batches, start_workers
from hive.data.prefetch import Prefetcher
from hive.data.text import Batch
from hive.distributed import World
from hive.efficiency.flops import step_flops, text_lengths
from hive.errors import UserError
from hive.export import export_tower
from hive.files import replace_text
from hive.heldout import evaluate, table
from hive.maps.heldout import draw_heldout
from hive.model.build import Model, build_model, image_spec, kernel_for, resolved
from hive.model.frozen_tower import FrozenTower
from hive.profiling import StepProfiler
from hive.runs import Run
from hive.stages import build_optimizer, enter_stage, learning_rate, stage_steps, trained_parts
from hive.telemetry import Telemetry, plot_losses
from hive.train.cli import CONFIG_FILE, fingerprint
from hive.train.meter import Meter
from hive.train.setup import (
    check_batches,
    check_frozen_precision,
    check_out,
    check_stages,
    check_vocabulary,
    load_optimizer,
    make_run_folder,
    open_data,
    open_tokenizer,
    stage_summary,
)
from hive.train.step import train_step

READ_LOSSES_EVERY = 10  # steps: reading a loss makes the host wait for the GPU


class Trainer:
    """One run: everything that the stages share, and the position in them."""

    def __init__(self, config: Config, resume: bool, world: World, console: Console, profile: bool = False) -> None:
        """Finds every mistake that can be found before anything is written."""
        # ---- kernel and data
        self.world, self.console = world, console
        check_out(config, resume)
        check_batches(config, world.size)
        if config.dataset.workers:
            start_workers()  # they import while the model is built
        self.backend = kernel_for(config.kernel, world.device)
        self.tokenizer = open_tokenizer(config)
        self.pairs, self.heldout, self.epoch_pairs = open_data(config)

        # ---- model
        self.model: Model = build_model(config, self.backend)
        check_vocabulary(self.model, self.tokenizer)
        self.config = dataclasses.replace(resolved(config, self.model), kernel=self.backend, device=world.device.type)
        self.spec: ImageSpec = image_spec(self.model.tower.model)
        self.model.to(world.device)
        self.prefetch = Prefetcher(world.device)
        if config.compile:
            for layer in self.model.tower.read_layers:
                layer.compile()
            self.model.language.decoder_layer = torch.compile(self.model.language.decoder_layer, dynamic=True)

        # ---- position
        self.fingerprints = {
            "config": fingerprint(self.config),
            "tokenizer": self.tokenizer.fingerprint,
            "data": self.pairs.fingerprint,
        }
        self.stage, self.stage_step, self.step = config.stages[0], 0, 0
        self.optimizer_state: dict[str, torch.Tensor] = {}
        self.stopped_by: int | None = None
        scalars = self.restore(config.out) if resume and config.out is not None else {}
        check_frozen_precision(config, self.stage, self.model)
        self.folder = world.from_main(make_run_folder(config) if world.is_main else Path())
        counts = scalars.get("ledger", {})
        self.ledger = Ledger(self.folder, config.dataset.max_bad_share, writes=world.is_main, **counts)
        self.profiler = StepProfiler(self.folder, world.device) if profile and world.is_main else None

    # ------------------------------------------------------------------------------------------------------- the run

    def run(self) -> int:
        """Trains the stages that are left; returns the exit code."""
        if self.world.is_main:
            replace_text(self.folder / CONFIG_FILE, to_json(self.config))
        self.telemetry = Telemetry(self.folder, self.console, last_step=self.step, is_main=self.world.is_main)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self.stop)
        self.introduce()
        try:
            for stage in self.config.stages:
                if stage < self.stage:
                    continue
                if stage > self.stage:
                    self.stage, self.stage_step, self.optimizer_state = stage, 0, {}
                if not self.train_stage():
                    self.telemetry.say(
                        f"Saved at step {self.step}. Continue with: python -m hive.train --resume {self.folder}"
                    )
                    return 128 + (self.stopped_by or signal.SIGTERM)
                self.evaluate()
            self.finish()
        finally:
            if self.profiler is not None:
                self.profiler.close()
                self.telemetry.say(self.profiler.summary())
            self.telemetry.close()
        return 0

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Asks for a save and an exit after the current step; the same signal again ends the process at once."""
        self.stopped_by = number
        signal.signal(number, signal.SIG_DFL)

    def introduce(self) -> None:
        """Says what runs, where, and on what."""
        device = self.world.device
        name = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        )
        precision = "bf16 autocast, fp32 weights" if device.type == "cuda" else "fp32"
        if self.config.vision.frozen_precision != "autocast":
            precision += f", frozen tower in {self.config.vision.frozen_precision}"
        self.telemetry.say(
            f"{self.config.recipe}: {self.config.method} on {name}, {precision}, kernel {self.backend}, "
            f"{len(self.pairs):,} training pairs\nrun folder {self.folder}"
        )

    # ------------------------------------------------------------------------------------------------------- a stage

    def train_stage(self) -> bool:
        """Trains the current stage to its end and saves; False if a signal stopped it, saved as well."""
        config, schedule = self.config, self.config.schedule(self.stage)
        parts = trained_parts(config, self.stage)
        self.parameters = enter_stage(self.model, parts)
        self.encode = self.model.tower if "tower" in parts else self.frozen_tower()
        self.optimizer = build_optimizer(self.parameters, schedule)
        load_optimizer(self.optimizer, self.parameters, self.optimizer_state)
        steps = stage_steps(config, self.stage, self.epoch_pairs)
        if self.stage_step >= steps:
            return True  # resumed at the end of a stage
        self.telemetry.say(stage_summary(self.model, self.parameters, self.stage, schedule, steps))
        self.telemetry.start_stage(self.stage, self.stage_step, steps)

        data = batches(
            self.pairs,
            self.tokenizer,
            self.spec,
            config.dataset,
            seed=4 * config.seed + self.stage,
            batch_size=schedule.batch_size,
            micro_batch_size=min(config.micro_batch_size, schedule.batch_size),
            first_step=self.stage_step,
            steps=steps - self.stage_step,
            rank=self.world.rank,
            world=self.world.size,
            augment=config.dataset.augment,
            pin=self.world.device.type == "cuda",
        )

        def flops_of(batch: Batch) -> float:  # asks only the host's batch, so the GPU isn't waited for
            costs = step_flops(self.model, parts, batch.samples, text_lengths(batch.cu_seqlens.tolist()))
            return sum(cost.total for cost in costs.values())

        meter = Meter(self.telemetry, self.world, flops_of, stage=self.stage, done=self.stage_step, steps=steps)
        report_every = READ_LOSSES_EVERY if self.world.device.type == "cuda" else 1
        last_saved, stopping = self.step, False
        for micro_batches in meter.timed(data):
            if self.profiler is not None:
                self.profiler.step()
            rate = learning_rate(schedule, self.stage_step, steps)
            loss, norm = self.train_step(micro_batches, rate, schedule.clip)
            self.step += 1
            self.stage_step += 1
            meter.add(micro_batches, loss, norm, self.step, rate)
            done = self.stage_step == steps
            stopping = self.world.any(self.stopped_by is not None)
            save_now = self.step - last_saved >= config.save_every or stopping or done
            if save_now or self.stage_step % report_every == 0:
                meter.report(self.ledger)
            if done or stopping:
                break
            if save_now:
                last_saved = self.step
                self.save_checkpoint(or_warn=True)
        self.telemetry.end_stage()
        self.telemetry.say(meter.summary())
        self.save_checkpoint(or_warn=False)
        return not stopping

    def frozen_tower(self) -> FrozenTower:
        """The tower as it is now, for a stage that doesn't train it."""
        dtype = torch.bfloat16 if self.world.device.type == "cuda" else torch.float32
        precision, compiled = self.config.vision.frozen_precision, self.config.compile
        return FrozenTower(self.model.tower, dtype, precision, compiled=compiled)

    def train_step(self, micro_batches: Sequence[Batch], rate: float, clip: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss and gradient norm of a step, still on the device."""
        tokens = self.world.sum(sum(batch.token_count for batch in micro_batches))
        if tokens == 0:
            raise UserError(
                f"Step {self.step + 1} has no supervised token, since none of its images could be read: see "
                f"{self.ledger.path}."
            )
        return train_step(
            partial(self.model, encode=self.encode),
            self.optimizer,
            self.prefetch(batch for batch in micro_batches if batch.samples),
            tokens=tokens,
            rate=rate,
            clip=clip,
            world=self.world,
        )

    # ------------------------------------------------------------------------------------------------ between stages

    def evaluate(self) -> None:
        """Held-out loss of every split, to the person and to the metrics; what a stopped run has recorded stays."""
        results = self.world.from_main(self.telemetry.held_out_at(self.step) if self.world.is_main else {})
        for split, pairs in self.heldout.items():
            if split in results:
                continue
            data = heldout_batches(
                pairs,
                self.tokenizer,
                self.spec,
                self.config.dataset,
                self.config.micro_batch_size,
                self.config.dataset.heldout_pairs,
            )
            with torch.autocast("cuda", torch.bfloat16, enabled=self.world.device.type == "cuda"):
                results[split] = evaluate(self.model, data, self.world, self.ledger, self.encode)
            self.telemetry.record_held_out(split, results[split], step=self.step, stage=self.stage)
        self.telemetry.say(table(results))

    def finish(self) -> None:
        """Exports the tower and draws the loss curve and the maps."""
        if self.world.is_main:
            export_tower(self.model.tower.model, self.folder / "tower", self.spec)
            self.telemetry.say(f"tower       {self.folder / 'tower'}\nloss curve  {plot_losses(self.folder)}")
            run = Run(self.folder, self.config, self.model, self.tokenizer, self.spec, self.step)
            try:
                self.telemetry.say(f"maps        {draw_heldout(run, self.heldout)}")
            except Exception as error:  # a picture is no reason to lose a run
                self.telemetry.say(f"warning: The maps could not be drawn ({error}): try python -m hive.maps.")
        self.world.barrier()

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def save_checkpoint(self, *, or_warn: bool) -> None:
        """Saves model, optimiser and position; a full disk is a warning while training can go on."""
        if self.world.is_main:
            tensors = {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
            for name, parameter in self.parameters.items():
                tensors |= {f"optimizer.{name}.{key}": value for key, value in self.optimizer.state[parameter].items()}
            scalars = {
                "stage": self.stage,
                "stage_step": self.stage_step,
                "step": self.step,
                "ledger": {"seen": self.ledger.seen, "bad": self.ledger.bad},
            }
            try:
                checkpoint.save(
                    self.folder / "checkpoints",
                    step=self.step,
                    tensors=tensors,
                    scalars=scalars,
                    fingerprints=self.fingerprints,
                    keep=self.config.keep_checkpoints,
                )
            except checkpoint.CheckpointError as error:
                if not or_warn:
                    raise
                self.telemetry.say(f"warning: {error}")
        self.world.barrier()

    def restore(self, folder: Path) -> dict[str, Any]:
        """Loads the newest whole checkpoint of a run folder; returns its scalars."""
        newest = checkpoint.newest(folder / "checkpoints", self.console.print)
        if newest is None:
            return {}  # stopped before its first checkpoint: begins again
        saved = checkpoint.load(newest)
        checkpoint.check_fingerprints(saved.fingerprints, self.fingerprints)
        self.stage, self.stage_step, self.step = (saved.scalars[key] for key in ("stage", "stage_step", "step"))
        unfinished = self.stage_step < stage_steps(self.config, self.stage, self.epoch_pairs)
        check_stages(self.config, self.stage, unfinished)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(saved.tensors[f"model.{name}"])
        self.optimizer_state = {name: tensor for name, tensor in saved.tensors.items() if name.startswith("optimizer.")}
        return saved.scalars
