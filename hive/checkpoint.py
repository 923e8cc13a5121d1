"""Writes and reads checkpoints. One is either whole or absent, whatever kills the process or fills the disk.

A checkpoint is a folder `step-00001234` of three files: tensors as safetensors, scalars as JSON, and a manifest with
the size and SHA-256 of both. They are written to a hidden folder, the manifest last, and one rename makes the
checkpoint. Nothing is ever pickled, so that reading one runs no code.
"""

import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hive.errors import UserError

FORMAT = 1
TENSORS, SCALARS, MANIFEST = "tensors.safetensors", "scalars.json", "manifest.json"
MARGIN = 16 * 2**20  # bytes that a save leaves free: headers, the manifest, and room for the logs
TEMPORARY = ".tmp-"

REMEDY = {
    "config": "resume with the settings in the run folder's config, or start a new run",
    "tokenizer": "pass the tokenizer that the run began with through --language.tokenizer, or start a new run",
    "data": "point --data and --image-root at the data that the run began with, or start a new run",
}


class CheckpointError(UserError):
    """A checkpoint could not be written; the earlier ones are untouched.

    A training loop can print it as a warning and go on, except where the run ends.
    """


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: tensors on the CPU, bit-equal to those saved."""

    step: int
    """Global step over all stages."""
    tensors: dict[str, torch.Tensor]
    """Named tensors, with their dtypes and shapes."""
    scalars: dict[str, Any]
    """The JSON values given to `save` (tuples come back as lists)."""
    fingerprints: dict[str, str]
    """Fingerprints of the config, tokenizer and data that the run began with, for `check_fingerprints`."""


def save(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    scalars: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    keep: int,
) -> Path:
    """Writes `folder/step-<step>` and deletes older checkpoints beyond the newest `keep`; returns its path.

    `step` grows over all stages. Tensors of any device, dtype, shape and stride are fine, but no two names may share
    memory: pass tied weights once. Where a whole checkpoint of this step and run exists already, nothing is written.
    Raises `CheckpointError` when the disk is full or a write fails: nothing half-written stays, earlier checkpoints
    are untouched. Raises `UserError` when the folder holds this step of a run with other fingerprints.
    """
    assert keep >= 1
    assert step >= 0
    target = folder / f"step-{step:08d}"
    if target.exists() and _problem(target) is None:
        if _manifest(target)["fingerprints"] != dict(fingerprints):
            raise UserError(f"{target} belongs to a run with another config, tokenizer or data: choose another --out.")
        return target
    temporary = folder / f"{TEMPORARY}{step}-{secrets.token_hex(4)}"
    text = json.dumps(dict(scalars), indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        _check_space(folder, sum(tensor.nbytes for tensor in tensors.values()) + len(text))
        temporary.mkdir()
        save_file(_on_cpu(tensors), temporary / TENSORS)
        (temporary / SCALARS).write_text(text)
        files = {name: _sync_and_describe(temporary / name) for name in (TENSORS, SCALARS)}
        _write_manifest(temporary, {"format": FORMAT, "step": step, "fingerprints": dict(fingerprints), "files": files})
        _sync_folder(temporary)
        if target.exists():  # broken, or it would have been returned above
            _remove(target)
        os.rename(temporary, target)
        _sync_folder(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint of step {step} could not be written to {folder} ({error}): make room "
            "on that disk and resume; earlier checkpoints are untouched."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _remove_older(folder, step, keep)
    return target


def newest(folder: Path, warn: Callable[[str], None] | None = None, after: int = -1) -> Path | None:
    """The path of the whole checkpoint with the highest step in `folder`, or None; only those of a step above `after`.

    Reads all bytes of the checkpoints that it tries. `warn` gets one sentence for each broken one that is skipped; by
    default they become Python warnings.
    """
    for _, path in sorted((item for item in _list_checkpoints(folder) if item[0] > after), reverse=True):
        problem = _problem(path)
        if problem is None:
            return path
        (warn or warnings.warn)(f"Skipping the checkpoint {path}: {problem}.")
    return None


def read_fingerprints(path: Path) -> dict[str, str]:
    """The fingerprints of the run that wrote a checkpoint, as `Checkpoint.fingerprints`, without its tensors."""
    return dict(_manifest(path)["fingerprints"])


def load(path: Path) -> Checkpoint:
    """Verifies and reads one checkpoint; raises `UserError` when it is missing or broken."""
    if problem := _problem(path):
        raise UserError(f"The checkpoint {path} can't be used: {problem}; choose another, or start a new run.")
    manifest = _manifest(path)
    return Checkpoint(
        manifest["step"], load_file(path / TENSORS), json.loads((path / SCALARS).read_text()), manifest["fingerprints"]
    )


def check_fingerprints(saved: Mapping[str, str], current: Mapping[str, str]) -> None:
    """Raises `UserError` where config, tokenizer or data is not what the run began with, a sentence for each."""
    changed = [name for name in sorted({*saved, *current}) if saved.get(name) != current.get(name)]
    if changed:
        raise UserError(
            " ".join(
                f"The {name} ({_short(current.get(name))}) differs from the checkpoint's ({_short(saved.get(name))}): "
                f"{REMEDY.get(name, 'start a new run')}."
                for name in changed
            )
        )


def _short(fingerprint: str | None) -> str:
    return "none" if fingerprint is None else fingerprint[:12]


def _on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, contiguous, each with a storage of exactly its size, as safetensors requires."""
    result = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        result[name] = value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
    owners = [value.data_ptr() for value in result.values() if value.nbytes]
    assert len(owners) == len(set(owners)), "two names share memory: pass tied weights once"
    return result


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise OSError(f"it needs {(needed + MARGIN) / 1e6:.0f} MB and {free / 1e6:.0f} MB are free")


def _sync_and_describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    with (folder / MANIFEST).open("w") as file:
        json.dump(manifest | {"sha256": _digest(manifest)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / MANIFEST).read_text())


def _problem(path: Path, read_all: bool = True) -> str | None:
    """What is wrong with a checkpoint, or None; without `read_all` the files' sizes are enough."""
    try:
        manifest = _manifest(path)
        digest = manifest.pop("sha256")
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, this version of HIVE reads {FORMAT}"
        if digest != _digest(manifest):
            return f"{MANIFEST} is damaged"
        for name in (TENSORS, SCALARS):
            expected = manifest["files"][name]
            if (size := (path / name).stat().st_size) != expected["size"]:
                return f"{name} has {size} bytes instead of {expected['size']}"
            if read_all and _hash(path / name) != expected["sha256"]:
                return f"{name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing" if path.is_dir() else "there is no such folder"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it can't be read ({error})"
    return None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of each checkpoint in `folder`, whole or not."""
    if not folder.is_dir():
        return []
    named = [(re.fullmatch(r"step-(\d{8,})", path.name), path) for path in folder.iterdir()]
    return [(int(match[1]), path) for match, path in named if match]


def _remove_older(folder: Path, step: int, keep: int) -> None:
    """Deletes the checkpoints up to `step` except the newest `keep`; those with files missing or cut don't count."""
    older = sorted((item for item in _list_checkpoints(folder) if item[0] <= step), reverse=True)
    whole = [path for _, path in older if _problem(path, read_all=False) is None]
    for _, path in older:
        if path not in whole[:keep]:
            try:
                _remove(path)
            except OSError as error:
                warnings.warn(f"The old checkpoint {path} could not be deleted ({error}).", stacklevel=3)


def _remove(path: Path) -> None:
    """Deletes a checkpoint. One rename hides it first, so that nobody can read a half-deleted one."""
    hidden = path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")
    os.rename(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
