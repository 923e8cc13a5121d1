"""python -m hive.claim: does HIVE's pre-training give the better tower? All runs, probes and tests in one command."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hive.claim.cli import Command, parse
from hive.command import exit_code, open_console
from hive.errors import UserError, choose

if TYPE_CHECKING:
    from hive.claim.plan import Row


def run(command: Command) -> int:
    """Trains and evaluates what has no result yet, then prints and writes the tables of all results."""
    # torch takes seconds to import: --help and mistyped flags answer without it
    from transformers.utils import logging

    from hive.claim.dry_run import report
    from hive.claim.evaluate import open_set
    from hive.claim.plan import BLIND, SETTINGS, rows
    from hive.claim.run import Stopped, jobs, run_all, seeds_in
    from hive.distributed import join_world

    logging.disable_progress_bar()
    setting = choose("--setting", command.setting, SETTINGS)(command.data)
    out = command.out or Path("runs") / f"claim-{setting.name}"
    data = open_set(setting.folder, setting.base.language)
    all_rows, texts = rows(setting, command.max_steps)
    if command.only is None:
        chosen = [row for row in all_rows if command.ablations or not row.ablation]
    else:
        chosen = _select_rows(f"{command.only},{BLIND}", all_rows)  # every score is compared with the blind baseline
    if command.dry_run:
        print(report(setting, chosen, texts, command.seeds))
        return 0
    try:
        from hive.claim.plot import picture
        from hive.claim.table import markdown, metrics, to_json
    except ModuleNotFoundError as error:
        raise UserError(
            f"The paired test needs {error.name}, which is not installed: pip install 'hive-pretraining[probe]'."
        ) from None
    from hive.files import make_folder, replace_files

    with join_world(command.device) as world:
        if world.size > 1:
            raise UserError(
                "The comparison trains its runs one after another in one process: start it without torchrun."
            )
        make_folder(out)
        todo = jobs(chosen, command.seeds, out, data, setting)
        try:
            run_all(todo, data, texts, setting, world, open_console(), _say)
        except Stopped as stopped:
            _say("Stopped; the same command continues.")
            return int(stopped.args[0])
    results = {
        (job.row.name, job.seed): result
        for job in jobs(all_rows, seeds_in(out), out, data, setting)
        if (result := job.result()) is not None
    }
    title = f"HIVE's claim, setting {setting.name}"
    tables = metrics(all_rows, results, data)
    text = markdown(title, all_rows, tables, results)
    record = json.dumps(to_json(title, tables, results), indent=2) + "\n"
    files = {"table.md": text.encode(), "table.json": record.encode(), "table.png": picture(title, tables)}
    replace_files({out / name: content for name, content in files.items()})
    _say("\n".join(["", text, *(str(out / name) for name in files)]))
    return 0


def _select_rows(text: str, all_rows: Sequence["Row"]) -> list["Row"]:
    names = text.split(",")
    known = [row.name for row in all_rows]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f'--only names "{unknown[0]}", but it must be some of {", ".join(known)}.')
    return [row for row in all_rows if row.name in names]


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 with one sentence for a user's mistake, 130 for Ctrl-C."""
    return exit_code(
        lambda: run(parse(sys.argv[1:] if argv is None else argv)), when_full="give the same command again"
    )


if __name__ == "__main__":
    sys.exit(main())
