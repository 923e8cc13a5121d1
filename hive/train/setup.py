"""Checks and preparation that all tasks share: batch sizes, kernels, vocabulary, the model on its device."""

import dataclasses

import torch

from hive.config import AnyConfig, Kernel, RunConfig
from hive.data.loader import start_fork_server
from hive.data.text import Encoder
from hive.errors import UserError
from hive.model.build import Model, resolved
from hive.model.eight_bit import check_eight_bit
from hive.model.frozen_tower import FrozenTower
from hive.model.fusion import CrossAttentionBlock
from hive.model.vision import Encode
from hive.run_folder import check_out
from hive.train.trackers import check_trackers
from hive_kernels.backends import CROSS_ATTENTION


def prepare(config: RunConfig, resume: bool, processes: int) -> None:
    """Raises `UserError` for mistakes that show before anything is loaded; starts the loader workers' fork server."""
    check_out(config, resume)
    check_batches(config, processes)
    check_trackers(config.trackers)
    if config.dataset.workers:
        start_fork_server()  # it imports while the model is built


def check_batches(config: RunConfig, processes: int) -> None:
    """Raises `UserError` for a batch with fewer samples than there are processes."""
    for stage in config.stages:
        batch = config.schedule(stage).batch_size
        if batch < processes:
            raise UserError(
                f"--batch-size is {batch} in stage {stage}, but {processes} processes need at least {processes}: raise "
                "it, or start fewer processes."
            )


def place(model: Model, tokenizer: Encoder, config: AnyConfig, backend: Kernel, device: torch.device) -> AnyConfig:
    """Moves the model to the device and compiles it where `config.compile` says so.

    Returns the configuration with the model's real shapes, the kernel and the type of the device. Raises `UserError`
    for a tokenizer or a kernel that doesn't fit the model.
    """
    check_vocabulary(model, tokenizer)
    check_kernel(model, backend, device)
    model.to(device)
    if config.compile:
        for layer in model.tower.read_layers:
            layer.compile()
        model.language.decoder_layer = torch.compile(model.language.decoder_layer, dynamic=True)
    return dataclasses.replace(resolved(config, model), kernel=backend, device=device.type)


def encoder_for(model: Model, config: RunConfig, parts: frozenset[str]) -> Encode:
    """The function that encodes images while these parts are trained: the tower, or a frozen copy of it made now."""
    if "tower" in parts:
        return model.tower
    dtype = torch.bfloat16 if model.tower.mean.is_cuda else torch.float32
    return FrozenTower(model.tower, dtype, config.vision.frozen_precision, compiled=config.compile)


def check_frozen_precision(config: RunConfig, model: Model) -> None:
    """Raises `UserError` for an 8-bit tower where it can't run."""
    if config.vision.frozen_precision != "autocast":
        check_eight_bit(config.vision.frozen_precision, model.tower, config.compile)


def check_kernel(model: Model, backend: str, device: torch.device) -> None:
    """Raises `UserError` where the backend does not support the model's heads, or the dtype of training."""
    limits = CROSS_ATTENTION.limits(backend)
    if limits is None or not any(isinstance(module, CrossAttentionBlock) for module in model.modules()):
        return
    width = model.language.head_dim
    if not limits.allows(width):
        raise UserError(
            f"--kernel is {backend}, which supports heads of {limits.head_sizes}, but the language model's are {width} "
            "wide: take --kernel torch, or another --language.heads."
        )
    if device.type != "cuda" and torch.float32 not in limits.dtypes:
        raise UserError(
            f"--kernel is {backend}, which has no fp32, but training on {device.type} is in fp32: take --kernel torch."
        )


def check_vocabulary(model: Model, tokenizer: Encoder) -> None:
    """Raises `UserError` for a tokenizer with ids that the model has no embedding for."""
    rows = model.language.shape.vocab_size
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"The tokenizer has {tokenizer.vocab_size} tokens, but the language model only {rows} embeddings: give "
            "the model's own tokenizer in --language.tokenizer, or raise --language.vocab-size."
        )
