"""The comparison's pieces against hand-computed cases, and the command as a person meets it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest
import torch

from hive.config import Config
from hive.cost import paper
from hive.cost.cases import Texts, random_batch, texts
from hive.cost.methods import METHODS, Method, build, configured
from hive.cost.simulate import biggest_micro_batch, simulate
from hive.data.text import load_tokenizer
from hive.efficiency.__main__ import main
from hive.efficiency.compare import Row, count, on_meta, stage_shape
from hive.efficiency.measure import Measured, measure
from hive.efficiency.scaling import Point, exponent
from hive.efficiency.tables import Table, growth
from hive.profiling import PARTS
from hive.recipes import load_recipe
from hive.stages import trained_parts
from tests.support.tiny_models import TINY

CPU = torch.device("cpu")


def test_the_papers_formulas_by_hand() -> None:
    """One layer of width 2, 3 visual tokens and 1 of text: 16 * 2 / 2 + 4 * 4, and 1 * 1 * 3 * 2 + (2 / 2 + 4)."""
    assert paper.self_attention_complexity(1, 2, 3, 1) == 32
    assert paper.cross_attention_complexity(1, 1, 2, 3, 1) == 11


def test_exponents() -> None:
    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    points = [Point("x", at, "hive", 0, at**1.5, 10 * at) for at in (1, 2, 4)]
    cells = {"along": "x", "method": METHODS["hive"], "FLOPs": "1.50", "peak memory": "1.00", "time": "-"}
    assert growth(points).rows == [cells]


def test_captions_of_the_data_have_their_own_lengths() -> None:
    found = texts("data", load_recipe("demo"), 5)
    assert len(found.lengths) == 5
    assert len(set(found.lengths)) > 1
    assert max(found.lengths) < load_tokenizer().vocab_size
    assert texts("7", TINY, 3).lengths == (7, 7, 7)


def simulated_and_measured(
    config: Config, method: Method, stage: int, captions: Texts, device: torch.device, precision: torch.dtype, runs: int
) -> tuple[Row, Measured]:
    """The row that `count` makes of a stage without a device, and what steps of it take on one."""
    (row,) = count(config, method, (stage,), captions, precision)
    settings = configured(config, method)
    with device:
        model = build(settings, method, "torch")
    batch = random_batch(captions.lengths, model)
    batches = cycle([batch.pin_memory() if device.type == "cuda" else batch])
    parts, schedule = trained_parts(settings, stage), settings.schedule(stage)
    return row, measure(model, parts, schedule, batches, device, runs=runs, steps_a_run=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", [2, 3])
def test_what_is_simulated_is_what_is_measured(method: Method, stage: int) -> None:
    """Every allocation of a real step is added up, and every part is heard."""
    row, found = simulated_and_measured(TINY, method, stage, texts("5", TINY, 40), CPU, torch.float32, runs=2)
    assert row.step.peak == pytest.approx(found.peak, rel=0.10)
    assert len(found.seconds) == 2
    silent = {"fusion"} if method not in ("hive", "hive-mlp") else set()
    assert list(found.parts) == [part for part in PARTS if part not in silent]
    assert sum(found.parts.values()) < 5 * found.median


def test_the_biggest_micro_batch_fits_and_the_next_does_not() -> None:
    shapes = on_meta(TINY, "hive")

    def peak(samples: int) -> int:
        (step,) = simulate(on_meta(TINY, "hive"), [stage_shape(TINY, shapes, 3, (5,) * samples)], torch.float32)
        return step.peak

    capacity = (peak(90) + peak(91)) // 2
    found = biggest_micro_batch(
        lambda: on_meta(TINY, "hive"),
        lambda samples: stage_shape(TINY, shapes, 3, (5,) * samples),
        [capacity, 1000],
        torch.float32,
    )
    assert found == [90, 0]


def test_a_table_lines_up() -> None:
    table = Table("t", ("word", "n"), [{"word": "a", "n": "1"}, {"n": "100", "word": "long"}, {"word": "b"}])
    assert table.text().splitlines() == ["t", "word    n", "a       1", "long  100", "b"]
    lines = ["| word | n |", "| --- | ---: |", "| a | 1 |", "| long | 100 |", "| b |  |"]
    assert table.markdown().splitlines()[2:] == lines


@contextmanager
def watching(file: Path) -> Iterator[set[int]]:
    """The numbers of measured rows that somebody reads in the file while something runs."""
    seen: set[int] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            if file.exists():
                seen.add(sum(row["measured"] is not None for row in json.loads(file.read_text())["rows"]))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield seen
    finally:
        over.set()
        reader.join()


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--device", "cpu", "--samples", "2", "--runs", "1", "--text-tokens", "4", "--stages", "2"]
    with watching(tmp_path / "efficiency.json") as seen:
        assert main([*flags, "--no-scaling", "--out", str(tmp_path)]) == 0
    assert seen >= {1, 2, 3, 4}  # a run that is cut off keeps the rows that it has measured
    printed = capsys.readouterr().out
    assert "(Table 6)" in printed
    assert "(Table 8)" in printed
    content = json.loads((tmp_path / "efficiency.json").read_text())
    assert {row["method"] for row in content["rows"]} == set(METHODS)
    assert all(row["measured"]["seconds"] for row in content["rows"])
    page = (tmp_path / "efficiency.md").read_text()
    assert "54.2 GB" in page
    assert (tmp_path / "efficiency-demo-4.png").exists()
    assert (tmp_path / "efficiency-demo-4.svg").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--recipe", "nothing"], "--recipe"),
        (["--text-tokens", "16,many"], "--text-tokens"),
        (["--text-tokens", "0"], "--text-tokens"),
        (["--stages", "4"], "--stages"),
        (["--runs", "0"], "--runs"),
        (["--samples", "-1"], "--samples"),
    ],
)
def test_mistakes_are_one_sentence(flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*flags, "--device", "meta", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said} is ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--device", "cuda", "--out", str(tmp_path / "out")]) == 2
    assert "sees no GPU" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["hive", "self-attention"])
@pytest.mark.parametrize("stage", [2, 3])
def test_the_estimate_on_a_gpu(method: Method, stage: int) -> None:
    """What --dry-run prints is within 10 % of what torch allocates."""
    config, device = load_recipe("siglip-l-384-mobilellm-350m"), torch.device("cuda")
    captions = texts("77", config, 8)
    row, found = simulated_and_measured(config, method, stage, captions, device, torch.bfloat16, runs=1)
    assert row.step.peak == pytest.approx(found.peak, rel=0.10)
