"""python -m hive.export: the tower of a run for other programs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hive.command import exit_code
from hive.errors import UserError
from hive.export.cli import Command, parse

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from hive.data.images import ImageSpec
    from hive.export.facts import Facts
    from hive.export.hub import Hub


def run(command: Command, make_hub: "Callable[[str], Hub] | None" = None) -> int:
    """Runs what the command line asked for; returns the exit code. `make_hub` makes a hub's client from a token."""
    # torch and transformers take seconds to import, and --help and mistyped flags need neither
    from hive.distributed import join_world
    from hive.export.hub import check_push, push

    token = None
    if command.push is not None:
        from huggingface_hub import HfApi, get_token

        token = check_push(command.push, get_token)
        make_hub = make_hub or (lambda token: HfApi(token=token))
    check_library(command)
    with join_world(command.device) as world:
        tower, spec, facts = read(command.run, world.device)
        folder = command.out or default_folder(command, tower)
        write(command, tower, folder, spec, facts)
        print(f"{command.to:<11} {folder}")
        if command.push is not None and token is not None and make_hub is not None:
            print(push(folder, command.push, make_hub(token)))
    return 0


def check_library(command: Command) -> None:
    """Raises `UserError` where the library of the target is missing, before anything else takes time."""
    from hive.export.vit import require

    if command.to in ("timm", "open_clip"):
        require(command.to, command.to.replace("_", "-"))


def read(source: Path, device: "torch.device") -> "tuple[PreTrainedModel, ImageSpec, Facts]":
    """(the tower, how its images are prepared, its facts) of a run's newest checkpoint or of an exported tower."""
    from torch import nn

    from hive import checkpoint
    from hive.export.facts import gather_facts, read_facts
    from hive.export.loading import no_progress_bar
    from hive.model.families import image_spec
    from hive.model.pretrained import load_vision
    from hive.run_folder import CONFIG_FILE
    from hive.train.state import CHECKPOINTS
    from hive.train.trained import load_run

    if not source.is_dir():
        raise UserError(f"{source} is no folder: give a run of python -m hive.train, or its tower/.")
    facts = read_facts(source)
    if facts is not None:
        with no_progress_bar():
            tower = load_vision(str(source), "RUN")
        nn.Module.to(tower, device)
        return tower, image_spec(tower), facts
    if (source / "preprocessor_config.json").exists() or not (source / CONFIG_FILE).exists():
        raise UserError(f"{source} is neither a run nor a tower that this version exported: give the run's folder.")
    run = load_run(source, device, kernel="auto", flag="RUN")
    newest = checkpoint.newest(source / CHECKPOINTS, lambda sentence: None)  # which loading has already said
    fingerprint = None if newest is None else checkpoint.read_fingerprints(newest)["data"]
    facts = gather_facts(source, run.config, run.model.tower, fingerprint, run.step)
    return run.model.tower.model, run.spec, facts


def default_folder(command: Command, tower: "PreTrainedModel") -> Path:
    """The folder beside tower/ whose name says what is in it; LLaVA's code needs the family in the name."""
    from hive.model.families import tower_family

    source = command.run.resolve()
    run = source.parent if source.name.startswith("tower") else source
    return run / (f"tower-llava-{tower_family(tower).name}" if command.to == "llava" else f"tower-{command.to}")


def write(command: Command, tower: "PreTrainedModel", folder: Path, spec: "ImageSpec", facts: "Facts") -> None:
    """Writes the export that the command asks for."""
    from hive.export.llava import export_llava
    from hive.export.open_clip import export_open_clip
    from hive.export.timm import export_timm
    from hive.export.tower import export_tower, trained_form

    if command.to == "timm":
        export_timm(tower, folder, spec, facts)
    elif command.to == "open_clip":
        export_open_clip(tower, folder, spec, facts, command.push)
    elif command.to == "llava":
        export_llava(tower, folder, spec, facts)
    else:
        export_tower(trained_form(tower, facts), folder, spec, facts)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return exit_code(lambda: run(parse(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
