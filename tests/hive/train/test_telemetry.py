"""What a person sees at two widths, and what a resumed run keeps of its metrics."""

import errno
import io
import json
import re
import threading
from pathlib import Path

import pytest
from rich.console import Console

from hive.config import Config
from hive.train.held_out import HeldOut, table
from hive.train.loss_curve import plot_losses
from hive.train.telemetry import METRICS, Telemetry, duration
from hive.train.trackers import TensorBoard


def step(number: int, **changed: float) -> dict:
    numbers = {"lr": 2.61e-4, "loss": 7.19341, "gradient_norm": 1.5, "images_per_second": 1_298.4}
    speed = {"tokens_per_second": 22_345.6, "tflops": 123.4, "data_wait": 0.021, "peak_memory_gb": 22.05}
    return {"step": number, "stage": 2, **numbers, **speed, **changed}


def screen(folder: Path, width: int) -> tuple[str, str]:
    """The last state of the two lines."""
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    telemetry = Telemetry(folder, console, last_step=0)
    telemetry.start_stage(2, 0, 4652)
    telemetry.record_steps([step(1234)], 1234, 4652, 93_605)
    telemetry.close()
    lines = re.sub(r"\x1b\[[?0-9]*[A-Za-z]|\r", "", shown.getvalue()).splitlines()
    first, second = ([line for line in lines if word in line][-1] for word in (" left", "loss"))
    assert max(len(first), len(second)) <= width
    return first, second.strip()


def test_duration() -> None:
    assert [duration(seconds) for seconds in (5, 3661.2, 86_399.7, 3 * 86_400 + 7_805)] == [
        "00:00:05",
        "01:01:01",
        "1 d 00:00:00",
        "3 d 02:10:05",
    ]


def test_two_lines_at_80_columns(tmp_path: Path) -> None:
    first, second = screen(tmp_path, 80)
    assert "stage 2" in first
    assert "1234/4652" in first
    assert "1 d 02:00:05 left" in first
    assert "━━━" in first
    assert second == "loss 7.193  lr 2.6e-04  1,298 images/s  22,346 tokens/s  123 TFLOP/s  22.05 GB"


def test_a_wide_terminal_shows_more(tmp_path: Path) -> None:
    assert "2 % waiting for data" in screen(tmp_path, 120)[1]


def test_a_narrow_terminal_shows_whole_numbers(tmp_path: Path) -> None:
    assert screen(tmp_path, 60)[1] == "loss 7.193  lr 2.6e-04  1,298 images/s  22,346 tokens/s"


def test_a_resume_keeps_the_records_before_it(tmp_path: Path) -> None:
    lines = [json.dumps({"kind": "train", **step(number)}) for number in (1, 2, 3)]
    (tmp_path / METRICS).write_text("\n".join(lines) + '\n{"kind": "tr')
    console = Console(file=io.StringIO())
    Telemetry(tmp_path, console, last_step=3).close()
    assert (tmp_path / METRICS).read_text().splitlines() == lines
    Telemetry(tmp_path, console, last_step=1).close()
    assert (tmp_path / METRICS).read_text().splitlines() == lines[:1]


def test_held_out_results_come_back(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path, Console(file=io.StringIO()), last_step=0)
    results = {"seen_style": HeldOut(1.5, 2.0, 8, 40), "unseen_style": HeldOut(None, None, 0, 0)}
    for split, result in results.items():
        telemetry.record_held_out(split, result, step=4, stage=1)
    assert telemetry.held_out_at(4) == results
    assert telemetry.held_out_at(8) == {}
    telemetry.close()
    assert plot_losses(tmp_path).exists()


def test_no_readable_image_is_no_loss_of_zero() -> None:
    rows = table({"seen_style": HeldOut(1.5, 2.0, 8, 40), "unseen_style": HeldOut(None, None, 0, 0)}).splitlines()
    assert rows[1].split()[-3:] == ["1.500", "2.000", "0.500"]
    assert rows[2].endswith("no readable image")


def test_only_a_full_disk_is_quiet_in_a_thread(tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    TensorBoard(Config(), tmp_path, 0).close()
    for number in (errno.ENOSPC, errno.EIO):
        thread = threading.Thread(target=_fail, args=(number,))
        thread.start()
        thread.join()
        assert ("Exception in thread" in capfd.readouterr().err) == (number != errno.ENOSPC)


def _fail(number: int) -> None:
    raise OSError(number, "as a writer does")
