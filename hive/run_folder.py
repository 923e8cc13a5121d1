"""Makes a run's folder, and checks that a resumed run has the same configuration. Imports no torch."""

import dataclasses
import hashlib
import json
from pathlib import Path

from hive.config import AnyConfig, Config, Origin, RunConfig, flag_of
from hive.config_json import fingerprinted, fixed_on_resume, flatten, from_json
from hive.errors import UserError

CONFIG_FILE = "config.json"
MODEL, START = "model", "start"
"""Folders in a run's folder: its whole trained model, and a copy of the model that `--from` started it from."""
MODEL_TYPE = "hive"
"""In the config.json of such a folder, as transformers' model types are in theirs."""
MODEL_FIELDS = ("recipe", "method", "fusion", "projector", "gate", "depths", "vision", "language")
"""Fields and groups of them that a model is made by; a run that starts from a trained one has its values."""


def check_out(config: RunConfig, resume: bool) -> None:
    """Raises `UserError` where --out holds another run."""
    if config.out is not None and not resume and (config.out / CONFIG_FILE).exists():
        raise UserError(
            f"--out {config.out} already holds a run: continue it with --resume {config.out}, or give another folder."
        )


def make_run_folder(config: RunConfig, label: str | None = None) -> Path:
    """Makes and returns the run's folder: --out, or the next free runs/RECIPE-LABEL-N, which no other run can take.

    `label` is what the run trains, unless it is something else than a run.
    """
    try:
        if config.out is not None:
            config.out.mkdir(parents=True, exist_ok=True)
            return config.out
        Path("runs").mkdir(exist_ok=True)
        number = 1
        while True:
            folder = Path("runs") / f"{config.recipe}-{label or config.trains}-{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                continue
            return folder
    except OSError as error:
        wanted = config.out or Path("runs")
        raise UserError(
            f"The run folder {wanted} can't be made ({error.strerror}): give a folder that can be written in --out."
        ) from error


def load_config(run: Path, kind: type[AnyConfig], flag: str = "--resume") -> AnyConfig:
    """The configuration in a run folder; `flag` is the flag that named the folder, for messages."""
    try:
        model_type = _read(run).get("model_type")
        if model_type == MODEL_TYPE:
            raise UserError(
                f"{flag} {run} is an exported model: give the folder of its run, or start a new run with --from {run}."
            )
        if model_type is not None:
            raise UserError(
                f"{flag} {run} holds a {model_type} model, and is no run folder: give the run that wrote it."
            )
        return from_json((run / CONFIG_FILE).read_text(), kind)
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{flag} {run} is no run folder (its {CONFIG_FILE} can't be read: {error}): give the folder "
            "that the run printed when it started."
        ) from error


def load_model_config(folder: Path, flag: str) -> Config:
    """The configuration of the run that trained a model; `folder` is the run's, or that of its exported model."""
    if is_model_folder(folder):
        return from_json(json.dumps(_read(folder).get("run")), Config)
    return load_config(folder, Config, flag)


def is_model_folder(folder: Path) -> bool:
    """Whether `folder` is that of an exported model."""
    return _read(folder).get("model_type") == MODEL_TYPE


def _read(folder: Path) -> dict[str, object]:
    """The object in a folder's config.json; an empty one where that can't be read."""
    try:
        content = json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def starting_config(folder: Path, flag: str = "--from") -> Config:
    """The configuration that a run from the trained model in `folder` begins with: that of its run, in a new folder.

    Weights and tokenizer that it names are those which the first run started from; they are not looked for.
    """
    return dataclasses.replace(load_model_config(folder, flag), out=None, origin=Origin(str(folder.absolute())))


def check_same_model(saved: Config, given: Config) -> None:
    """Raises `UserError` for a flag of another model than the one that `--from` names; `saved` starts from that."""
    before, now = (flatten(config) for config in (saved, given))
    for name in before:
        group, _, _ = name.partition(".")
        if group in MODEL_FIELDS and name != "vision.frozen_precision" and before[name] != now[name]:
            raise UserError(
                f"{flag_of(name)} is {now[name]}, but --from brings a whole model, where it is {before[name]}: leave "
                "the flag out, or start a run without --from."
            )


def fingerprint(config: RunConfig) -> str:
    """SHA-256 of all fields that must stay the same where a run is resumed."""
    return hashlib.sha256(json.dumps(fingerprinted(config), sort_keys=True, default=str).encode()).hexdigest()


def check_same(saved: RunConfig, given: RunConfig) -> None:
    """Raises `UserError` for a flag that would change what a resumed run computes."""
    if given.out != saved.out:
        raise UserError(
            f"--out is {given.out}, but --resume {saved.out} continues a run in its own folder: leave --out out, "
            "or start a new run."
        )
    before, now = fixed_on_resume(saved), fixed_on_resume(given)
    changed = next((name for name in before if before[name] != now[name]), None)
    if changed is not None:
        raise UserError(
            f"{flag_of(changed)} is {now[changed]}, but the run that --resume continues has {before[changed]}: leave "
            "the flag out, or start a new run."
        )
