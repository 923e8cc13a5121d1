"""The run: three stages of training, each with its evaluation and checkpoints. Read top to bottom."""

import dataclasses
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from hive import checkpoint
from hive.config import Config, Schedule, to_json
from hive.data.images import ImageSpec
from hive.data.ledger import Ledger
from hive.data.loader import batches, heldout_batches, start_workers
from hive.data.pairs import EMBEDDED_HELDOUT, Pairs, open_pairs, split_heldout
from hive.data.text import Batch, Tokenizer, load_tokenizer
from hive.distributed import World
from hive.efficiency.flops import step_flops, text_lengths
from hive.errors import UserError
from hive.export import export_tower
from hive.heldout import HeldOut, evaluate, table
from hive.model.build import Model, build_model, image_spec
from hive.stages import build_optimizer, enter_stage, learning_rate, stage_steps, trained_parts
from hive.telemetry import Telemetry, plot_losses
from hive.train.cli import CONFIG_FILE
from hive.train.meter import Meter
from hive_kernels import backends

READ_LOSSES_EVERY = 10  # steps: reading a loss makes the host wait for the GPU


class Trainer:
    """One run: everything that the stages share, and the position in them."""

    def __init__(self, config: Config, resume: bool, world: World, console: Console) -> None:
        """Finds every mistake that can be found before anything is written."""
        # ---- kernel and data
        self.config, self.world, self.console = config, world, console
        if config.dataset.workers:
            start_workers()  # they import while the model is built
        try:
            self.backend = backends.resolve(config.kernel, world.device)
        except ValueError as error:
            raise UserError(str(error)) from error
        self.tokenizer = load_tokenizer(config.language.tokenizer or config.language.weights)
        self.pairs, self.heldout = open_data(config)

        # ---- model
        self.model: Model = build_model(config, self.backend)
        check_vocabulary(self.model, self.tokenizer)
        self.spec: ImageSpec = image_spec(self.model.tower.model)
        self.model.to(world.device)
        if config.compile:
            for layer in self.model.tower.read_layers:
                layer.compile()
            self.model.language.decoder_layer = torch.compile(self.model.language.decoder_layer, dynamic=True)

        # ---- position
        self.fingerprints = {"tokenizer": self.tokenizer.fingerprint, "data": self.pairs.fingerprint}
        self.stage, self.stage_step, self.step = config.stages[0], 0, 0
        self.optimizer_state: dict[str, torch.Tensor] = {}
        self.folder = world.from_main(run_folder(config, resume))
        scalars = self.restore() if resume else {}
        self.ledger = Ledger(self.folder, config.dataset.max_bad_share, **scalars.get("ledger", {}))
        self.stopped_by: int | None = None

    # ------------------------------------------------------------------------------------------------------- the run

    def run(self) -> int:
        """Trains the stages that are left; returns the exit code."""
        if self.world.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / CONFIG_FILE).write_text(to_json(self.config))
        self.world.barrier()
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
                self.train_stage()
                if self.stopped_by is not None:
                    self.telemetry.say(f"Saved at step {self.step}. Continue with: {self.resume_command()}")
                    return 128 + self.stopped_by
            self.finish()
        finally:
            self.telemetry.close()
        return 0

    def introduce(self) -> None:
        """Says what runs, where, and on what."""
        device = self.world.device
        name = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        )
        precision = "bf16 autocast, fp32 weights" if device.type == "cuda" else "fp32"
        self.telemetry.say(
            f"{self.config.recipe}: {self.config.method} on {name}, {precision}, kernel {self.backend}, "
            f"{len(self.pairs):,} training pairs\nrun folder {self.folder}"
        )

    # ------------------------------------------------------------------------------------------------------- a stage

    def train_stage(self) -> None:
        """Trains the current stage from the current step to its end, evaluates and saves."""
        config, schedule = self.config, self.config.schedule(self.stage)
        parts = trained_parts(config, self.stage)
        parameters = enter_stage(self.model, parts)
        optimizer = build_optimizer(parameters, schedule)
        load_optimizer(optimizer, parameters, self.optimizer_state)
        steps = stage_steps(config, self.stage, len(self.pairs))
        if self.stage_step >= steps:
            return  # resumed at the end of a stage, which is saved after its evaluation
        self.telemetry.say(stage_summary(self.model, parameters, self.stage, schedule, steps))
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

        def flops_of(batch: Batch) -> float:
            costs = step_flops(self.model, parts, batch.samples, text_lengths(batch.cu_seqlens.tolist()))
            return sum(cost.total for cost in costs.values())

        meter = Meter(self.telemetry, self.world, flops_of, stage=self.stage, done=self.stage_step, steps=steps)
        last_saved = self.step
        for micro_batches in meter.timed(data):
            rate = learning_rate(schedule, self.stage_step, steps)
            loss, norm = self.train_step(optimizer, parameters, micro_batches, rate, schedule.clip)
            self.step += 1
            self.stage_step += 1
            for batch in micro_batches:
                self.ledger.count(batch.samples, batch.bad)
            meter.add(micro_batches, loss, norm, self.step, rate)
            done = self.stage_step == steps
            save_now = self.step - last_saved >= config.save_every or self.stopped_by is not None
            if done or save_now or self.stage_step % READ_LOSSES_EVERY == 0:
                meter.report()
            if done or self.stopped_by is not None:
                break
            if save_now:
                last_saved = self.step
                self.save_checkpoint(optimizer, parameters, or_warn=True)
        self.telemetry.end_stage()
        if self.stage_step == steps:
            self.telemetry.say(meter.summary())
            self.evaluate()
        self.save_checkpoint(optimizer, parameters, or_warn=False)

    def train_step(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: dict[str, torch.nn.Parameter],
        micro_batches: Sequence[Batch],
        rate: float,
        clip: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Count tokens, micro-batches, clip, step. Returns mean loss and gradient norm, still on the device."""
        # ---- every supervised token of the whole batch weighs the same, however it is split
        tokens = self.world.sum(sum(batch.token_count for batch in micro_batches))
        if tokens == 0:
            raise UserError(
                f"Step {self.step + 1} has no supervised token, since none of its images could be read: see "
                f"{self.ledger.path}."
            )
        # ---- micro-batches
        total = torch.zeros((), device=self.world.device)
        for batch in micro_batches:
            if batch.samples == 0:
                continue
            with torch.autocast("cuda", torch.bfloat16, enabled=self.world.device.type == "cuda"):
                loss = self.model(batch.to(self.world.device)) / tokens
            loss.backward()
            total += loss.detach()
        # ---- clip, step
        self.world.sum_gradients(parameters.values())
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total, norm

    # ------------------------------------------------------------------------------------------------ between stages

    def evaluate(self) -> None:
        """Held-out loss of every split, to the person and to the metrics."""
        results: dict[str, HeldOut] = {}
        for split, pairs in self.heldout.items():
            data = heldout_batches(
                pairs,
                self.tokenizer,
                self.spec,
                self.config.dataset,
                self.config.micro_batch_size,
                self.config.dataset.heldout_pairs,
            )
            with torch.autocast("cuda", torch.bfloat16, enabled=self.world.device.type == "cuda"):
                results[split] = evaluate(self.model, data, self.world.device, self.ledger)
            record = {"step": self.step, "stage": self.stage, **dataclasses.asdict(results[split])}
            self.telemetry.record(record, f"heldout/{split}")
        self.telemetry.say(table(results))

    def finish(self) -> None:
        """Exports the tower and draws the loss curve."""
        if self.world.is_main:
            export_tower(self.model.tower.model, self.folder / "tower", self.spec)
            self.telemetry.say(f"tower       {self.folder / 'tower'}\nloss curve  {plot_losses(self.folder)}")
        self.world.barrier()

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def save_checkpoint(
        self, optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], *, or_warn: bool
    ) -> None:
        """Saves model, optimiser and position; a full disk is a warning while training can go on."""
        if self.world.is_main:
            tensors = {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
            for name, parameter in parameters.items():
                tensors |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state[parameter].items()}
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

    def restore(self) -> dict[str, Any]:
        """Loads the newest whole checkpoint of the run folder; returns its scalars."""
        newest = checkpoint.newest(self.folder / "checkpoints", self.console.print)
        if newest is None:
            return {}  # stopped before its first checkpoint: begins again
        saved = checkpoint.load(newest)
        checkpoint.check_fingerprints(saved.fingerprints, self.fingerprints)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(saved.tensors[f"model.{name}"])
        self.stage, self.stage_step, self.step = (saved.scalars[key] for key in ("stage", "stage_step", "step"))
        self.optimizer_state = {name: tensor for name, tensor in saved.tensors.items() if name.startswith("optimizer.")}
        return saved.scalars

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Asks for a save and an exit after the current step."""
        self.stopped_by = number

    def resume_command(self) -> str:
        """What to type to go on."""
        return f"python -m hive.train --resume {self.folder}"


def open_data(config: Config) -> tuple[Pairs, dict[str, Pairs]]:
    """Training pairs and held-out splits by name."""
    pairs = open_pairs(config.data, config.image_root)
    if config.data == "embedded":
        return pairs, {split: open_pairs("embedded", None, split) for split in EMBEDDED_HELDOUT}
    pairs, heldout = split_heldout(pairs, config.dataset.heldout_pairs, config.seed)
    return pairs, {"held_out": heldout}


def check_vocabulary(model: Model, tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer whose ids the model has no embedding for."""
    rows = model.language.model.config.vocab_size
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"The tokenizer has {tokenizer.vocab_size} tokens, but the language model only {rows} embeddings: give "
            "the model's own tokenizer in --language.tokenizer, or raise --language.vocab-size."
        )


def run_folder(config: Config, resume: bool) -> Path:
    """The folder of this run; a new run never writes into an older one's."""
    if config.out is not None:
        if not resume and (config.out / CONFIG_FILE).exists():
            raise UserError(
                f"--out {config.out} already holds a run: continue it with --resume {config.out}, or give "
                "another folder."
            )
        return config.out
    number = 1
    while (folder := Path("runs") / f"{config.recipe}-{config.method}-{number}").exists():
        number += 1
    return folder


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], saved: dict[str, torch.Tensor]
) -> None:
    """Gives the optimiser the saved moments and step counts."""
    for name, parameter in parameters.items():
        prefix = f"optimizer.{name}."
        state = {
            key.removeprefix(prefix): value.to(parameter.device)
            for key, value in saved.items()
            if key.startswith(prefix)
        }
        if state:
            optimizer.state[parameter] = state


def stage_summary(
    model: Model, parameters: dict[str, torch.nn.Parameter], stage: int, schedule: Schedule, steps: int
) -> str:
    """What trains in the stage, and how."""
    trained = {name: sum(p.numel() for p in part if p.requires_grad) for name, part in model.parts().items()}
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in trained.items() if count)
    total = sum(parameter.numel() for parameter in parameters.values())
    return (
        f"\nstage {stage} trains {total / 1e6:.2f} M parameters ({parts})\n"
        f"{steps} steps of {schedule.batch_size} pairs, lr {schedule.peak_lr:g} to {schedule.min_lr:g}, "
        f"warm-up {math.ceil(schedule.warmup * steps)}, clip {schedule.clip:g}"
    )
