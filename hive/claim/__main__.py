"""python -m hive.claim: does HIVE's pre-training give the better tower? All runs, probes and tests in one command."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hive.command import Parser, exit_code
from hive.errors import UserError

if TYPE_CHECKING:
    from hive.claim.plan import Row


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line; `UserError` for what can't be."""
    parser = Parser(
        prog="python -m hive.claim",
        description="Trains towers without pre-training, with self-attention and with HIVE, probes them, asks them "
        "questions, and tests the difference. The same command again continues.",
    )
    parser.add_argument(
        "--setting",
        choices=("small", "gpu"),
        default="small",
        help="small: the demo's models, for two CPU cores; gpu: 128 pixels, a larger tower, SmolLM2-135M where it is "
        "installed; default: small",
    )
    parser.add_argument("--seeds", type=_seeds, default=(0, 1, 2), metavar="0,1,2", help="default: 0,1,2")
    parser.add_argument("--ablations", action="store_true", help="with the ablations of HIVE as well")
    parser.add_argument(
        "--only", metavar="NAME,...", help="these rows and the blind baseline alone; --dry-run lists them"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder that tools/build_emoji.py wrote; default: the embedded set, for gpu emoji-128",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/claim-SETTING")
    parser.add_argument("--max-steps", type=_count, metavar="N", help="most steps of a stage, for a quick look")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained and what it costs")
    return parser.parse_args(argv)


def _seeds(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) < 2**32 for part in parts) or len({*map(int, parts)}) < len(parts):
        raise argparse.ArgumentTypeError(f'"{text}" is no list of different seeds such as 0,1,2')
    return tuple(map(int, parts))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is no number of 1 or more')
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Does what is missing, then prints and writes the tables of all that is there."""
    # torch takes seconds to import: --help and mistyped flags answer without it
    from rich.console import Console
    from transformers.utils import logging

    from hive.claim.dry_run import report
    from hive.claim.evaluate import open_set
    from hive.claim.plan import BLIND, SETTINGS, rows
    from hive.claim.run import Stopped, jobs, run_all, seeds_in
    from hive.distributed import join_world

    logging.disable_progress_bar()
    setting = SETTINGS[arguments.setting](arguments.data)
    out = arguments.out or Path("runs") / f"claim-{setting.name}"
    data = open_set(setting.folder, setting.base.language)
    everything, texts = rows(setting, arguments.max_steps)
    if arguments.only is None:
        chosen = [row for row in everything if arguments.ablations or not row.ablation]
    else:
        chosen = _named(f"{arguments.only},{BLIND}", everything)  # no score without what it is compared with
    if arguments.dry_run:
        print(report(setting, chosen, texts, arguments.seeds))
        return 0
    try:
        from hive.claim.plot import picture
        from hive.claim.table import markdown, metrics, to_json
    except ModuleNotFoundError as error:
        raise UserError(
            f"The paired test needs {error.name}, which is not installed: pip install 'hive-pretraining[probe]'."
        ) from None
    from hive.files import replace_files

    with join_world(arguments.device) as world:
        if world.size > 1:
            raise UserError(
                "The comparison trains its runs one after another in one process: start it without torchrun."
            )
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--out {out} can't be made ({error.strerror}): give a folder that can be written."
            ) from error
        todo = jobs(chosen, arguments.seeds, out, data, setting)
        try:
            run_all(todo, data, texts, setting, world, Console(), _say)
        except Stopped as stopped:
            _say("Stopped; the same command continues.")
            return int(stopped.args[0])
    results = {
        (job.row.name, job.seed): result
        for job in jobs(everything, seeds_in(out), out, data, setting)
        if (result := job.result()) is not None
    }
    title = f"HIVE's claim, setting {setting.name}"
    found = metrics(everything, results, data)
    text = markdown(title, everything, found, results)
    record = json.dumps(to_json(title, found, results), indent=2) + "\n"
    files = {"table.md": text.encode(), "table.json": record.encode(), "table.png": picture(title, found)}
    replace_files({out / name: content for name, content in files.items()})
    _say("\n".join(["", text, *(str(out / name) for name in files)]))
    return 0


def _named(text: str, everything: Sequence["Row"]) -> list["Row"]:
    names = text.split(",")
    known = [row.name for row in everything]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f'--only names "{unknown[0]}", but it must be some of {", ".join(known)}.')
    return [row for row in everything if row.name in names]


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Entry point: a person's mistake is one sentence and exit code 2."""
    return exit_code(
        lambda: run(parse(sys.argv[1:] if argv is None else argv)), when_full="give the same command again"
    )


if __name__ == "__main__":
    sys.exit(main())
