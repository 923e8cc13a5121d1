"""Flags may be cut short, and what fits none or several is one sentence."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hive.errors import UserError
from hive.flags import flags_of, spell_out
from hive.train.cli import Command, parse

FLAGS = list(flags_of(Command))
PROGRAM = "python -m hive.train"
KINDS = {
    "train": "hive.train.cli.Command",
    "vlm": "hive.vlm.cli.Command",
    "caption": "hive.caption.cli.Command",
    "export": "hive.export.cli.Command",
    "claim": "hive.claim.cli.Command",
    "efficiency": "hive.efficiency.options.Options",
    "evaluate": "hive.evaluate.cli.Command",
    "probe": "hive.probe.cli.Command",
    "report": "hive.report.__main__.Command",
    "maps attention": "hive.maps.cli.Attention",
}
"""What tyro reads for each command."""


def test_the_flags_are_those_of_the_help() -> None:
    """For every command, against what tyro prints."""
    helps = {
        name: subprocess.Popen(
            [sys.executable, "-m", *f"hive.{name} --help".split()], stdout=subprocess.PIPE, text=True
        )
        for name in KINDS
    }
    for name, process in helps.items():
        shown = re.findall(r"(?:^│ |, )(--[a-z][a-z0-9.-]*)", process.communicate()[0], re.MULTILINE)
        module, _, kind = KINDS[name].rpartition(".")
        assert sorted(flags_of(getattr(import_module(module), kind))) == sorted({*shown} - {"--help"}), name


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--lang.weig", "--language.weights"),
        ("--max-st", "--max-steps"),
        ("--max_steps", "--max-steps"),
        ("--batch", "--batch-size"),
        ("--lr", "--lr"),
        ("--no-g", "--no-gate"),
        ("--da.no-a", "--dataset.no-augment"),
        ("--schedule3.peak=1e-3", "--schedule3.peak-lr=1e-3"),
        ("--vis.dens=a=b", "--vision.density=a=b"),
        ("--hel", "--help"),
        ("-h", "-h"),
    ],
)
def test_a_unique_beginning_is_the_flag(given: str, meant: str) -> None:
    assert spell_out([given, "--seed", "1"], FLAGS, PROGRAM) == [meant, "--seed", "1"]


def test_values_stay_as_they_are() -> None:
    words = ["--data", "max_st", "-1", "", "--", "--max-st", "--bogus"]
    assert spell_out(words, FLAGS, PROGRAM) == words


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("--see", None),
        ("--st", "--st can be --stages or --stage1: write more of the flag's name."),
        ("--lang", r"--lang can be --language.weights, --language.family, --language.tokenizer, --language.hidden-size "
                   r"or \d+ others: write more of the flag's name."),
        ("--langage.weights", "--langage.weights is no flag of python -m hive.train: do you mean --language.weights?"),
        ("--vision.desnity", "--vision.desnity is no flag of python -m hive.train: do you mean --vision.density?"),
        ("--clip", "--clip is no flag of .*: do you mean --schedule1.clip, --schedule2.clip or --schedule3.clip?"),
        ("--qqq", "--qqq is no flag of python -m hive.train: python -m hive.train --help lists them."),
    ],
)  # fmt: skip
def test_what_fits_none_or_several(given: str, sentence: str | None) -> None:
    if sentence is None:
        assert parse([given, "7"]).config.seed == 7
        return
    with pytest.raises(UserError) as caught:
        parse([given, "7"])
    assert re.fullmatch(sentence.replace("?", r"\?"), str(caught.value))


def test_another_command_reads_its_flags_so_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main: Any = import_module("hive.report.__main__").main
    assert main(["--ou", str(tmp_path), "run"]) == 2
    assert f"--out {tmp_path} is a folder" in capsys.readouterr().err
    assert main(["--outt", "x", "run"]) == 2
    assert capsys.readouterr().err == "error: --outt is no flag of python -m hive.report: do you mean --out?\n"
