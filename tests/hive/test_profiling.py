"""What a listener hears of a step, and what --profile leaves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hive.config import Config
from hive.profiling import PARTS, listening
from hive.stages import enter_stage
from hive.train.__main__ import main
from tests.support.tiny_models import BASELINE, JOINT, tiny_batch, tiny_model
from tests.support.tiny_models import TINY as MODEL
from tests.support.tiny_run import TINY

FORWARD = ["tower", "projector", "language", *["fusion", "language"] * 2, "head"]


def heard(parts: frozenset[str], config: Config = MODEL) -> list[str]:
    """Names in order, repetitions left out."""
    model = tiny_model(config)
    names: list[str] = []
    enter_stage(model, parts)
    with listening(names.append):
        model(tiny_batch()).backward()
    return [name for name, before in zip(names, [None, *names], strict=False) if name != before]


def test_the_backward_pass_goes_the_way_back() -> None:
    everything = frozenset({"tower", "projector", "fusion", "language"})
    assert heard(everything) == [*FORWARD, *FORWARD[-2::-1]]
    assert heard(everything, replace(MODEL, checkpoint_activations=True)) == [*FORWARD, *FORWARD[-2::-1]]


def test_a_frozen_part_is_not_heard_on_the_way_back() -> None:
    """Nothing below the first injected block has a gradient but keys, values and projector."""
    assert heard(frozenset({"projector", "fusion"})) == [
        *FORWARD,
        *["language", "fusion", "language", "fusion", "projector"],
    ]


def test_the_baseline_and_the_joint_variant() -> None:
    everything = frozenset({"tower", "projector", "language"})
    there = ["tower", "projector", "language", "head"]
    assert heard(everything, BASELINE) == [*there, *there[-2::-1]]
    assert heard(everything | {"fusion"}, JOINT) == [*there, *there[-2::-1]]


@pytest.mark.parametrize(
    ("device", "steps"),
    [pytest.param("cpu", 7, id="cut short"), pytest.param("cuda", 10, id="on a GPU", marks=pytest.mark.gpu)],
)
def test_profile_leaves_a_trace_with_the_parts_named(
    device: str, steps: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [*TINY, "--device", device, "--stages", "3", "--max-steps", str(steps), "--out", str(tmp_path / "run")]
    assert main([*flags, "--profile"]) == 0
    assert str(tmp_path / "run" / "profile.json") in capsys.readouterr().out.replace("\n", "")
    events = json.loads((tmp_path / "run" / "profile.json").read_text())["traceEvents"]
    names = {event.get("name") for event in events if event.get("cat") == "user_annotation"}
    assert names >= set(PARTS)


def test_a_run_too_short_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = [*TINY, "--stages", "1", "--max-steps", "2", "--out", str(tmp_path / "run"), "--profile"]
    assert main(flags) == 0
    assert "the first 5 are left out" in capsys.readouterr().out
    assert not (tmp_path / "run" / "profile.json").exists()
