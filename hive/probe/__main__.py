"""python -m hive.probe: classification with a frozen tower (paper, Table 1)."""

import dataclasses
import json
import sys

from hive.command import exit_code
from hive.files import replace_text
from hive.probe.cli import Command, default_cache, parse


def run(command: Command) -> int:
    """Runs the probe, prints its table and writes --out; returns the exit code."""
    # torch and transformers take seconds to import: --help and mistyped flags answer without them
    from transformers.utils import logging

    from hive.distributed import join_world
    from hive.probe.datasets import open_dataset
    from hive.probe.run import check_heads, probe
    from hive.probe.table import paper_rows, table
    from hive.probe.tower import load_tower

    logging.disable_progress_bar()
    data = open_dataset(command.dataset, command.data_root)
    with join_world(command.device) as world:
        tower = load_tower(command.tower, command.layer, world.device)
        heads = check_heads(tower, command.heads)
        protocol = command.protocol
        _say(f"{command.dataset}: {len(data.classes)} classes, {data.split}")
        _say(f"hidden state {tower.layer} of a {tower.family.name} tower: {tower.patches} tokens x {tower.width}")
        _say(f"{', '.join(heads)} heads: {len(protocol.grid)} grid points x {protocol.seeds} seeds side by side")
        results = probe(
            tower,
            data,
            protocol,
            heads=heads,
            cache=command.cache or default_cache(),
            cache_tokens=command.cache_tokens,
            workers=command.workers,
            say=_say,
        )
    _say("\n" + table(data.name, tower.family.name, results, protocol))
    if command.out is not None:
        record = {
            "dataset": data.name,
            "split": data.split,
            "tower": {
                "path": str(command.tower),
                "family": tower.family.name,
                "layer": tower.layer,
                "sha256": tower.fingerprint,
            },
            "protocol": dataclasses.asdict(protocol),
            "grid": protocol.grid,
            "results": [
                {**dataclasses.asdict(result), "mean": result.mean, "deviation": result.deviation} for result in results
            ],
            "paper": paper_rows(data.name, tower.family.name),
        }
        replace_text(command.out, json.dumps(record, indent=2) + "\n")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 with one sentence for a user's mistake, 130 for Ctrl-C."""
    return exit_code(lambda: run(parse(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
