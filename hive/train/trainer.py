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
from hive.config import RunConfig, to_json
from hive.cost.flops import step_flops, text_lengths
from hive.data.images import ImageSpec
from hive.data.ledger import Ledger
from hive.data.loader import batches, heldout_batches, start_workers
from hive.data.prefetch import Prefetcher
from hive.data.text import Batch, Encoder, Tokenizer
from hive.distributed import World
from hive.errors import UserError
from hive.export import export_tower
from hive.files import replace_text
from hive.maps.heldout import draw_heldout
from hive.model.build import Model, build_model, resolved
from hive.model.frozen_tower import FrozenTower
from hive.model.kernel import kernel_for
from hive.profiling import StepProfiler
from hive.runs import Run
from hive.stages import build_optimizer, enter_stage, learning_rate, stage_steps, trained_parts
from hive.train.cli import CONFIG_FILE, fingerprint
from hive.train.held_out import evaluate, table
from hive.train.meter import Meter
from hive.train.setup import (
    TrainingSet,
    check_batches,
    check_frozen_precision,
    check_kernel,
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
from hive.train.telemetry import Telemetry, plot_losses

READ_LOSSES_EVERY = 10  # steps: reading a loss makes the host wait for the GPU


class Trainer:
    """One run of pre-training: everything that the stages share, and the position in them.

    A run of another kind replaces what "what is trained" holds.
    """

    program = "python -m hive.train"
    unit = "pairs"
    """What a batch consists of."""

    def __init__(self, config: RunConfig, resume: bool, world: World, console: Console, profile: bool = False) -> None:
        """Finds every mistake that can be found before anything is written."""
        # ---- kernel and data
        self.world, self.console = world, console
        check_out(config, resume)
        check_batches(config, world.size)
        if config.dataset.workers:
            start_workers()  # they import while the model is built
        self.backend = kernel_for(config.kernel, world.device)
        self.tokenizer = self.open_tokenizer(config)
        self.sets = self.open_sets(config)

        # ---- model
        self.model: Model = self.build_model(config)
        check_vocabulary(self.model, self.tokenizer)
        check_kernel(self.model, self.backend, world.device)
        self.config: Any = dataclasses.replace(
            resolved(config, self.model), kernel=self.backend, device=world.device.type
        )
        self.spec: ImageSpec = self.model.tower.spec
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
            "data": "-".join(dict.fromkeys(data.pairs.fingerprint for data in self.sets.values())),
        }
        self.stage, self.stage_step, self.step = config.stages[0], 0, 0
        self.optimizer_state: dict[str, torch.Tensor] = {}
        self.stopped_by: int | None = None
        scalars = self.restore(config.out) if resume and config.out is not None else {}
        if any("tower" not in self.trained_parts(stage) for stage in config.stages if stage >= self.stage):
            check_frozen_precision(config, self.model)
        self.folder = world.from_main(make_run_folder(config) if world.is_main else Path())
        counts = scalars.get("ledger", {})
        self.ledger = Ledger(self.folder, config.dataset.max_bad_share, writes=world.is_main, **counts)
        self.profiler = StepProfiler(self.folder, world.device) if profile and world.is_main else None

    # ----------------------------------------------------------------------------------------------- what is trained

    def open_tokenizer(self, config: RunConfig) -> Encoder:
        """What makes batches of the set's texts."""
        return open_tokenizer(config.language)

    def open_sets(self, config: Any) -> dict[int, TrainingSet]:
        """Each stage's data."""
        return dict.fromkeys((1, 2, 3), open_data(config))

    def build_model(self, config: Any) -> Model:
        """The model, in fp32 on the CPU."""
        return build_model(config, self.backend)

    def trained_parts(self, stage: int) -> frozenset[str]:
        """Names in `model.parts()` that have gradients in the stage."""
        return trained_parts(self.config, stage)

    def flops(self, batch: Batch) -> float:
        """Of a micro-batch, forward and backward, in the current stage."""
        costs = step_flops(
            self.model, self.trained_parts(self.stage), batch.samples, text_lengths(batch.cu_seqlens.tolist())
        )
        return sum(cost.total for cost in costs.values())

    def export(self) -> str:
        """Writes what the run was for; returns a line that says where it is."""
        export_tower(self.model.tower.model, self.folder / "tower", self.spec)
        return f"tower       {self.folder / 'tower'}"

    def draw_maps(self) -> None:
        """Pictures of what the model attends to; a picture is no reason to lose a run."""
        assert isinstance(self.tokenizer, Tokenizer)
        run = Run(self.folder, self.config, self.model, self.tokenizer, self.spec, self.step)
        try:
            self.telemetry.say(f"maps        {draw_heldout(run, self.sets[self.stage].heldout)}")
        except Exception as error:
            self.telemetry.say(f"warning: The maps could not be drawn ({error}): try python -m hive.maps.")

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
                        f"Saved at step {self.step}. Continue with: {self.program} --resume {self.folder}"
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
            f"{self.config.recipe}: {self.config.trains} on {name}, {precision}, kernel {self.backend}, "
            f"{len(self.sets[self.stage].pairs):,} training {self.unit}\nrun folder {self.folder}"
        )

    # ------------------------------------------------------------------------------------------------------- a stage

    def train_stage(self) -> bool:
        """Trains the current stage to its end and saves; False if a signal stopped it, saved as well."""
        config, schedule = self.config, self.config.schedule(self.stage)
        parts = self.trained_parts(self.stage)
        self.parameters = enter_stage(self.model, parts)
        self.encode = self.model.tower if "tower" in parts else self.frozen_tower()
        self.optimizer = build_optimizer(self.parameters, schedule)
        load_optimizer(self.optimizer, self.parameters, self.optimizer_state)
        steps = stage_steps(config, self.stage, self.sets[self.stage].epoch_pairs)
        if self.stage_step >= steps:
            return True  # resumed at the end of a stage
        self.telemetry.say(stage_summary(self.model, self.parameters, self.stage, schedule, steps, self.unit))
        self.telemetry.start_stage(self.stage, self.stage_step, steps)

        data = batches(
            self.sets[self.stage].pairs,
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

        meter = Meter(self.telemetry, self.world, self.flops, stage=self.stage, done=self.stage_step, steps=steps)
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
        if self.profiler is not None:
            self.profiler.close()
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
            bad = [f", such as {name} ({reason})" for batch in micro_batches for _, name, reason in batch.bad]
            raise UserError(
                f"Step {self.step + 1} has no supervised token, since none of its samples could be used"
                f"{bad[0] if bad else ''}: mend or remove them."
            )
        return train_step(
            partial(self.model, encode=self.encode),
            self.optimizer,
            self.prefetch(batch for batch in micro_batches if batch.token_count),
            tokens=tokens,
            rate=rate,
            clip=clip,
            world=self.world,
        )

    # ------------------------------------------------------------------------------------------------ between stages

    def evaluate(self) -> None:
        """Held-out loss of every split, to the person and to the metrics; what a stopped run has recorded stays."""
        results = self.world.from_main(self.telemetry.held_out_at(self.step) if self.world.is_main else {})
        for split, pairs in self.sets[self.stage].heldout.items():
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
        """Exports what was trained and draws the loss curve."""
        if self.world.is_main:
            self.telemetry.say(f"{self.export()}\nloss curve  {plot_losses(self.folder)}")
            self.draw_maps()
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
        unfinished = self.stage_step < stage_steps(self.config, self.stage, self.sets[self.stage].epoch_pairs)
        check_stages(self.config, self.stage, unfinished)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(saved.tensors[f"model.{name}"])
        self.optimizer_state = {name: tensor for name, tensor in saved.tensors.items() if name.startswith("optimizer.")}
        return saved.scalars
