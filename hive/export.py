"""Writes the trained tower as a Hugging Face model, after it has been loaded back and compared."""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging

from hive.data.images import ImageSpec
from hive.errors import UserError
from hive.model.families import tower_family

FILES = {"config.json", "model.safetensors", "preprocessor_config.json"}


def export_tower(vision_model: PreTrainedModel, folder: Path, image_spec: ImageSpec) -> None:
    """Writes a tower with its image processor to `folder`, weights in fp32.

    transformers 4.57 and 5.x load it bit-equal with `AutoModel` or the tower's class, and `AutoImageProcessor`. It
    is written beside `folder`, loaded back, and compared: every weight and the last hidden state of a fixed image.
    Only then does it replace an earlier export. Raises `RuntimeError` when the comparison fails and `UserError` when
    `folder` holds something else or can't be written; both leave `folder` as it was.
    """
    assert image_spec.size == vision_model.config.image_size, (image_spec.size, vision_model.config.image_size)
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - FILES):
        raise UserError(f"{folder} holds something other than an exported tower: move it away or choose another --out.")
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        _write(vision_model, temporary, image_spec)
        _compare(vision_model, temporary)
        replace_folder(folder, temporary)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"The tower could not be exported to {folder} ({error}): make room there or choose another --out."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _weights(vision_model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Copies of the tower's weights in fp32 on the CPU, under the keys that every version of transformers reads."""
    prefix = tower_family(vision_model).export_prefix
    return {
        prefix + name.removeprefix(prefix): value.detach()
        .to("cpu", torch.float32)
        .clone(memory_format=torch.contiguous_format)
        for name, value in vision_model.state_dict().items()
    }


def _write(vision_model: PreTrainedModel, folder: Path, spec: ImageSpec) -> None:
    config = vision_model.config.to_diff_dict()
    for key in ("_name_or_path", "torch_dtype", "output_hidden_states"):  # a local path, an alias, and what HIVE reads
        config.pop(key, None)
    config |= {"architectures": [type(vision_model).__name__], "dtype": "float32"}
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", tower_family(vision_model).processor(spec))
    save_file(_weights(vision_model), folder / "model.safetensors", metadata={"format": "pt"})
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes `value` as JSON, sorted and indented as transformers writes its files."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _compare(vision_model: PreTrainedModel, folder: Path) -> None:
    """Raises `RuntimeError` unless the export in `folder` has the weights of `vision_model` and computes the same."""
    with no_progress_bar():
        loaded, report = AutoModel.from_pretrained(
            folder,
            output_loading_info=True,
            local_files_only=True,
            attn_implementation=vision_model.config._attn_implementation,
        )
    if faults := {kind: names for kind, names in report.items() if names}:
        raise RuntimeError(f"The exported tower doesn't load back: {faults}.")
    if type(loaded) is not type(vision_model):
        raise RuntimeError(f"The exported {type(vision_model).__name__} loads as {type(loaded).__name__}.")
    expected, got = _weights(vision_model), _weights(loaded)
    wrong = [
        name
        for name in sorted({*expected, *got})
        if name not in expected or name not in got or not torch.equal(expected[name], got[name])
    ]
    if wrong or {value.dtype for value in loaded.state_dict().values()} != {torch.float32}:
        raise RuntimeError(f"The exported tower's weights are not those of the trained one: {wrong}.")
    config = vision_model.config
    image = torch.randn(
        1, config.num_channels, config.image_size, config.image_size, generator=torch.Generator().manual_seed(0)
    ).to(vision_model.device, vision_model.dtype)
    with evaluating(vision_model):
        want = vision_model(pixel_values=image).last_hidden_state
        for exported, trained in zip(
            [*loaded.parameters(), *loaded.buffers()],
            [*vision_model.parameters(), *vision_model.buffers()],
            strict=True,
        ):
            # The same device, strides and alignment give the same rounding.
            exported.data = torch.empty_like(trained).copy_(exported)
        have = loaded.eval()(pixel_values=image).last_hidden_state
    if not torch.equal(want, have):
        raise RuntimeError(
            "The exported tower computes something else than the trained one: its last hidden state "
            f"differs by up to {(want - have).abs().max().item():.2g}."
        )


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
    """Inside, transformers shows no progress bars."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model runs eagerly and deterministically, without gradients, autocast or dropout.

    Afterwards every module is in its former mode again.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with (
            torch.no_grad(),
            torch.autocast(model.device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        for module, training in modes:
            module.training = training


def replace_folder(folder: Path, temporary: Path) -> None:
    """Renames the new export from `temporary` to `folder`; if that fails, an older export is in `folder` as before.

    Afterwards removes what earlier exports left beside it.
    """
    if folder.exists():
        older = temporary.with_name(f"{temporary.name}-older")
        os.rename(folder, older)
        try:
            os.rename(temporary, folder)
        except OSError:
            os.rename(older, folder)
            raise
    else:
        os.rename(temporary, folder)
    leftover = re.compile(rf"\.{re.escape(folder.name)}-[0-9a-f]{{8}}(-older)?")  # also that of a killed process
    for path in folder.parent.iterdir():
        if leftover.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
