"""The comparison: its plan, equal FLOPs, the paired test, and a whole tiny run that is stopped and continued."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scipy import stats

from hive.claim import plan, run
from hive.claim.__main__ import main
from hive.claim.cost import run_cost
from hive.claim.evaluate import open_set
from hive.claim.plan import BLIND, EQUAL_FLOPS, Setting, rows, small
from hive.claim.table import cell
from hive.config import LanguageConfig, VisionConfig, check
from hive.data.open_source import EMBEDDED
from hive.model.alignment import select_hidden_states
from hive.probe.protocol import Protocol


def tiny(folder: Path | None = None) -> Setting:
    setting = small(folder)
    base = replace(
        setting.base,
        vision=VisionConfig(image_size=16, patch_size=8, density=0.5, hidden_size=16, layers=4, heads=2, mlp_size=32),
        language=LanguageConfig(
            tokenizer=setting.base.language.tokenizer, hidden_size=24, layers=4, heads=2, mlp_size=32
        ),
        dataset=replace(setting.base.dataset, workers=0, heldout_pairs=8),
        batch_size=8,
        micro_batch_size=8,
    )
    short = Protocol((1e-2,), (0.05,), epochs=1.0, seeds=1)
    return replace(setting, base=base, probing=short, answering=short)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pairs of each embedded split."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "seen_style", "unseen_style", "unseen_concept"):
        table = pq.read_table(EMBEDDED / f"{split}.parquet")
        pq.write_table(table.take(list(range(0, len(table), len(table) // 40))[:40]), folder / f"{split}.parquet")
    (folder / "tokenizer").symlink_to(EMBEDDED / "tokenizer")
    return folder


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan.SETTINGS, "small", tiny)


@pytest.mark.parametrize("setting", ["small", "gpu"])
def test_rows_differ_and_can_be_trained(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "smollm2_file", lambda: None)  # its tokenizer takes seconds to read
    made, _ = rows({"small": small, "gpu": plan.gpu}[setting](EMBEDDED))
    trained = [row for row in made if row.pretrained]
    assert len({row.config for row in trained}) == len(trained)
    for row in made:
        check(row.config)
    assert {row.name for row in made if not row.ablation} == {"none", "self-attention", EQUAL_FLOPS, "hive", BLIND}


def test_densities_of_the_small_setting() -> None:
    made, _ = rows(small())
    read = {row.name: row.config.vision.selection for row in made}
    assert read["density-12.5"] == "7"  # the deepest one that any row reads: the cascaded form
    assert read["density-50"] == "1,3,5,7"
    assert read["density-100"] == "0,1,2,3,4,5,6,7"
    assert read["later"] == "5,6"
    assert select_hidden_states("uniform", 0.25, 8) == (3, 7)


def test_equal_flops_to_half_a_step() -> None:
    made, texts = rows(small())
    costs = {row.name: run_cost(row.config, texts) for row in made}
    full, equal, hive = costs["self-attention"], costs[EQUAL_FLOPS], costs["hive"]
    assert full.images == hive.images
    assert full.steps == hive.steps
    step = full.flops / sum(full.steps)
    assert abs(equal.flops - hive.flops) < step
    assert equal.flops < full.flops


def test_paired_statistics_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, deviation 1, t = 2 sqrt(3), two degrees of freedom."""
    found = cell({0: 1.0, 1: 1.0, 2: 1.0, 7: 9.0}, {0: 2.0, 1: 3.0, 2: 4.0})
    assert (found.mean, found.hive_minus, found.pairs) == (3.0, 2.0, 3)
    assert found.p == pytest.approx(2 * stats.t.sf(2 * 3**0.5, 2))
    assert cell({0: 1.0}, {0: 2.0}).p is None
    assert cell({0: 1.0}, None).hive_minus is None
    assert 0.3 - 0.1 != 0.4 - 0.2  # but only by rounding, which would be taken for a certain difference
    assert cell({0: 0.1, 1: 0.2}, {0: 0.3, 1: 0.4}).p is None


def test_majority_is_of_the_training_classes(data: Path) -> None:
    found = open_set(data, LanguageConfig())
    rows_of = {
        split: pq.read_table(data / f"{split}.parquet")["group"].to_pylist() for split in ("train", "seen_style")
    }
    largest = max(dict.fromkeys(rows_of["train"]), key=rows_of["train"].count)
    assert found.majority("group", "seen_style") == rows_of["seen_style"].count(largest) / 40


def test_plan_covers_every_label(data: Path, tmp_path: Path) -> None:
    """A result of other labels, other questions or another way to train is not taken for this plan's."""
    setting = tiny(data)
    row = rows(setting, 1)[0][0]

    def planned(folder: Path, setting: Setting = setting) -> str:
        return run.jobs([row], [0], tmp_path, open_set(folder, LanguageConfig()), setting)[0].planned

    found = {planned(data), planned(data, replace(setting, answering=replace(setting.answering, epochs=2.0)))}
    for name in ("group", "subgroup", "tone", "concept"):
        folder = tmp_path / name
        shutil.copytree(data, folder, symlinks=True)
        table = pq.read_table(folder / "train.parquet")
        values = [f"{value} 2" for value in table[name].to_pylist()]
        place = table.schema.get_field_index(name)
        pq.write_table(table.set_column(place, name, [values]), folder / "train.parquet")
        found.add(planned(folder))
    assert len(found) == 6
    assert planned(data) in found


def test_whole_comparison_stopped_and_continued(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    flags = ["--data", str(data), "--out", str(out), "--seeds", "0,1", "--max-steps", "3", "--device", "cpu"]
    flags += ["--only", "none,self-attention,hive"]

    # a signal in the middle of the first training run
    train_step = run.Trainer.train_step

    def stopped(self, *arguments):
        if self.position.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(self, *arguments)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run.Trainer, "train_step", stopped)
    assert main(flags) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == handler
    monkeypatch.setattr(run.Trainer, "train_step", train_step)
    assert (out / "none-0" / "result.json").exists()
    assert not (out / "self-attention-0" / "result.json").exists()

    assert main(flags) == 0
    steps = [json.loads(line)["step"] for line in (out / "self-attention-0" / "metrics.jsonl").open()]
    assert sorted(set(steps)) == list(range(1, 10))  # continued, not begun again beside the old records
    assert not list(out.glob("*/checkpoints"))
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG")
    table = json.loads((out / "table.json").read_text())
    by_title = {metric["title"]: metric for metric in table["metrics"]}
    group = table["metrics"][0]
    right = by_title["Caption loss with the right image, nats a token (less is better)"]
    assert set(group["cells"]) == {"none", "self-attention", "hive"}
    assert set(right["cells"]) == {"self-attention", "hive"}
    assert group["cells"]["none"]["unseen_style"]["pairs"] == 2

    # a table for each kind of question that the set has, with its baselines
    tables = (out / "table.md").read_text().split("## ")
    asked = {text.split(",")[0].removeprefix("Templated questions: "): text for text in tables if "Templated" in text}
    assert set(asked) == {"name", "group", "subgroup", "yes/no"}
    for text in asked.values():
        assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")] == [
            "| tower", "| none", "| self-attention", "| hive", "| blind", "| most common answer",
        ]  # fmt: skip
    assert "| blind | 50.0 ± 0.0 |" in asked["yes/no"]
    assert "| most common answer | 50.0 |" in asked["yes/no"]
    cells = asked["name"].split("| most common answer |")[1].splitlines()[0].split("|")
    assert [cell.strip() for cell in cells[6:9]] == ["–", "", ""]

    # nothing is left to do; another plan is refused
    monkeypatch.setattr("hive.claim.run.run_job", lambda *arguments: pytest.fail("done again"))
    capsys.readouterr()
    assert main(flags) == 0
    assert "8 of 8 are done already" in capsys.readouterr().out
    assert main([*flags, "--max-steps", "2"]) == 2
    assert "made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "0,0"], "no list of different seeds"),
        (["--seeds", "a"], "no list of different seeds"),
        (["--only", "hive,clip"], '--only names "clip"'),
        (["--setting", "big"], '--setting is "big", but it must be one of small, gpu'),
        (["--max-steps", "0"], "--max-steps is 0, but it must be 1 or more"),
        (["--data", "nowhere"], "nowhere"),
        (["--device", "tpu"], "--device"),
        (["--out", "/proc/nowhere"], "--out /proc/nowhere can't be made"),
    ],
)
def test_bad_input_is_one_sentence(flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--out", str(tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--dry-run", "--ablations", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "plain-projector" in shown
    assert "Estimate, not a measurement" in shown
    assert not (tmp_path / "out").exists()
