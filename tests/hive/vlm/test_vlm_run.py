"""The whole command: two stages, what they leave behind, stopping, resuming, several processes, mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hive import checkpoint
from hive.files import read_records
from hive.optimizer import warmup_steps
from hive.stages import stage_steps
from hive.vlm.__main__ import main
from hive.vlm.config import load_recipe
from tests.support.tiny_chats import make_set, save_tower

SHAPE = """
--language.hidden-size 24 --language.layers 3 --language.heads 2 --language.kv-heads 1 --language.mlp-size 40
--batch-size 8 --micro-batch-size 2 --max-steps 3 --device cpu --dataset.workers 0 --dataset.heldout-pairs 4
--save-every 2
"""
TIMED = {"images_per_second", "tokens_per_second", "tflops", "data_wait", "peak_memory_gb"}


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("vlm")
    torch.set_num_threads(1)
    first, second = make_set(folder / "first"), make_set(folder / "second", images=10, text_only=30)
    weights = save_tower(folder / "tower")
    return [*SHAPE.split(), "--vision.weights", str(weights), "--data", str(first), "--data2", str(second)]


@pytest.fixture(scope="module")
def finished(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    assert main([*flags, "--out", str(out), "--keep-checkpoints", "4"]) == 0
    return out


def steps(run: Path) -> list[dict]:
    records = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "train"]
    return [{name: value for name, value in record.items() if name not in TIMED} for record in records]


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in steps(run)]


def test_table_5() -> None:
    config = load_recipe("llama-3.2-1b")
    for stage, (samples, batch, rate, steps, warmup) in enumerate(
        ((558_128, 256, 1e-3, 2180, 66), (738_590, 64, 2e-5, 11_540, 347)), 1
    ):
        schedule = config.schedule(stage)
        assert (schedule.batch_size, schedule.peak_lr, schedule.min_lr) == (batch, rate, 0)
        assert (schedule.clip, schedule.weight_decay) == (1, 0)
        assert stage_steps(config, stage, samples) == steps
        assert warmup_steps(schedule, steps) == warmup


def test_two_stages(finished: Path, flags: list[str]) -> None:
    """Stage 1 moves the connector, stage 2 the language model as well, neither the tower."""
    assert [(record["stage"], record["step"]) for record in steps(finished)] == [
        (stage, 3 * (stage - 1) + step) for stage in (1, 2) for step in (1, 2, 3)
    ]
    at_3, at_6 = (checkpoint.load(finished / "checkpoints" / f"step-{step:08}").tensors for step in (3, 6))
    changed = {name.split(".")[1] for name in at_6 if name.startswith("model.") and not at_6[name].equal(at_3[name])}
    assert changed == {"projector", "language"}
    assert {name.split(".")[1] for name in at_3 if name.startswith("optimizer.")} == {"projector"}
    held_out = [
        record["stage"] for record in read_records(finished / "metrics.jsonl") if record["kind"] == "heldout/held_out"
    ]
    assert held_out == [1, 2]
    assert (finished / "llava" / "processor_config.json").exists()


def test_resumed_in_stage_1_and_between_the_stages(finished: Path, flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([*flags, "--out", str(out), "--stages", "1"]) == 0
    (out / "llava" / "README.md").write_text("my notes")  # so that later exports go beside it
    for path in (out / "checkpoints").glob("step-*3"):
        path.rename(tmp_path / "away")
    assert main(["--resume", str(out), "--stages", "1"]) == 0
    assert main(["--resume", str(out), "--stages", "1,2"]) == 0
    assert steps(out) == steps(finished)
    ours, theirs = ((folder / "model.safetensors").read_bytes() for folder in (out / "llava-2", finished / "llava"))
    assert ours == theirs
    assert (out / "llava" / "README.md").read_text() == "my notes"


def test_two_processes_and_other_micro_batches_give_the_same_losses(finished: Path, flags, tmp_path: Path) -> None:
    """Micro-batches of 2 of a set that is mostly text: some processes see no image in a step."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "hive.vlm", *flags, "--out", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(finished), abs=1e-4)
    others = ["--micro-batch-size", "8", "--kernel", "reference", "--dataset.workers", "1"]
    assert main([*flags, "--out", str(tmp_path / "b"), *others]) == 0
    assert losses(tmp_path / "b") == pytest.approx(losses(finished), abs=1e-4)


def test_ask(finished: Path, flags: list[str], capsys: pytest.CaptureFixture) -> None:
    image = Path(flags[flags.index("--data") + 1]).parent / "3.png"
    model = ["--model", str(finished / "llava")]
    assert main(["--ask", str(image), "What is this?", *model, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--ask", "x.png", "What?"], "--ask and --model go together"),
        (["--ask", "nowhere.png", "What?", "--model", "."], "--ask nowhere.png can't be read"),
        (["--ask", __file__, "What?", "--model", "."], "none of JPEG, PNG, WebP"),
        (["--ask", "nowhere.png", " ", "--model", "."], "The question of --ask is empty"),
        (["--recipe", "llama"], "--recipe is"),
        (["--stages", "2,1"], "some of 1,2 in that order"),
        (["--stages", "3"], "some of 1,2 in that order"),
        (["--feature-layer", "0"], "--feature-layer is 0, but it must be -1 or less"),
        (["--image-root2", "x"], "--image-root2 goes with --data2"),
        (["--data", "nowhere.json"], "--data nowhere.json does not exist"),
        (["--data2", "nowhere"], "--data2 nowhere does not exist"),
        (["--vision.weights", "runs/x/tower"], "is not there: pre-train one first"),
        (["--vision.weights", "."], "--vision.weights . "),
        (["--resume", "nowhere"], "is no run folder"),
    ],
)
def test_mistakes(given, said, tmp_path, monkeypatch, capsys, flags) -> None:
    monkeypatch.chdir(tmp_path)
    usual = flags[:-4] if "--resume" not in given else []
    assert main([*usual, *given]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_another_data_set_is_refused_on_resume(finished: Path, flags: list[str], tmp_path: Path, capsys) -> None:
    other = make_set(tmp_path, images=31)
    assert main(["--resume", str(finished), "--data", str(other)]) == 2
    assert "The data (" in capsys.readouterr().err


def test_a_set_that_is_cut_to_nothing(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*flags, "--out", str(tmp_path / "out"), "--dataset.max-text-tokens", "3"]) == 2
    assert "(no answer begins within 3 tokens), more than --dataset.max-bad-share" in capsys.readouterr().err


def test_the_ledger_counts_conversations_without_an_image(flags: list[str], tmp_path: Path) -> None:
    out, data = tmp_path / "out", make_set(tmp_path / "set", images=4, text_only=28)
    short = [*flags, "--data", str(data), "--data2", "None", "--stages", "1", "--max-steps", "2"]
    assert main([*short, "--out", str(out)]) == 0
    newest = checkpoint.newest(out / "checkpoints")
    assert newest is not None
    assert checkpoint.load(newest).scalars["ledger"] == {"seen": 16, "bad": 0}


def test_bad_samples_go_to_the_ledger(flags: list[str], tmp_path: Path) -> None:
    data = make_set(tmp_path / "set")
    (data.parent / "4.png").write_bytes(b"no image")
    records = json.loads(data.read_text())
    records[35]["conversations"][0]["value"] = "long " * 5000
    data.write_text(json.dumps(records))
    usual = [*flags, "--data", str(data), "--data2", "None", "--max-steps", "6", "--stages", "1"]
    assert main([*usual, "--out", str(tmp_path / "out")]) == 0
    reasons = {record["file"]: record["reason"] for record in read_records(tmp_path / "out" / "bad_samples.jsonl")}
    assert reasons["record 35"] == "no answer begins within 128 tokens"
    assert "4.png" in reasons


def test_bad_samples_of_two_sets_with_the_same_names_are_told_apart(flags: list[str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        data = make_set(tmp_path / name)
        (data.parent / "4.png").write_bytes(b"no image")
        records = json.loads(data.read_text())
        records[7]["image"] = "gone.png"
        data.write_text(json.dumps(records))
    usual = [*flags, "--data", str(tmp_path / "one" / data.name), "--data2", str(data), "--max-steps", "6"]
    assert main([*usual, "--out", str(tmp_path / "out")]) == 0
    places = sorted(record["file"] for record in read_records(tmp_path / "out" / "bad_samples.jsonl"))
    record = f"{data.name} record 7 (id 7)"
    assert places == ["4.png", record, "data2: 4.png", f"data2: {record}"]
