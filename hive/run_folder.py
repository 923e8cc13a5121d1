"""Makes a run's folder, and checks that a resumed run has the same configuration. Imports no torch."""

import hashlib
import json
from pathlib import Path

from hive.config import AnyConfig, RunConfig, flag_of
from hive.config_json import fingerprinted, fixed_on_resume, from_json
from hive.errors import UserError

CONFIG_FILE = "config.json"


def check_out(config: RunConfig, resume: bool) -> None:
    """Raises `UserError` where --out holds another run."""
    if config.out is not None and not resume and (config.out / CONFIG_FILE).exists():
        raise UserError(
            f"--out {config.out} already holds a run: continue it with --resume {config.out}, or give another folder."
        )


def make_run_folder(config: RunConfig, ending: str = "") -> Path:
    """Makes and returns the run's folder: --out, or the next free runs/RECIPE-METHOD-N, which no other run can take.

    `ending` follows the method.
    """
    try:
        if config.out is not None:
            config.out.mkdir(parents=True, exist_ok=True)
            return config.out
        Path("runs").mkdir(exist_ok=True)
        number = 1
        while True:
            folder = Path("runs") / f"{config.recipe}-{config.trains}{ending}-{number}"
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
        return from_json((run / CONFIG_FILE).read_text(), kind)
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{flag} {run} is no run folder (its {CONFIG_FILE} can't be read: {error}): give the folder "
            "that the run printed when it started."
        ) from error


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
