"""The ledger: a sample counts once, of the samples read so far; what it counted survives a kill."""

import json
from pathlib import Path

import pytest

from hive.data.ledger import GRACE, LEDGER, Ledger, check_skipped
from hive.data.pairs import Skipped
from hive.errors import UserError

BAD = tuple((index, f"{index}.png", "cut off") for index in range(40))


def files(folder: Path) -> list[str]:
    return [json.loads(line)["file"] for line in (folder / LEDGER).read_text().splitlines()]


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    Ledger(tmp_path, 0.5, size=9).count(3, ((0, "a.png", "cut off"), (1, "b.png", "cut off")))
    text = (tmp_path / LEDGER).read_text()
    for end in range(text.index("b.png"), len(text)):
        (tmp_path / LEDGER).write_text(text[:end])
        Ledger(tmp_path, 0.5, size=9).count(3, ((0, "a.png", "cut off"), (2, "c.png", "cut off")))
        assert files(tmp_path) == ["a.png", "c.png"]


def test_a_process_that_does_not_write_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 0.0, size=100, seen=10, writes=False)
    ledger.count(2, BAD[:1])
    with pytest.raises(UserError, match=r"1 of the 13 samples read so far are bad, the last of them 0.png \(cut off\)"):
        ledger.check()
    assert not list(tmp_path.iterdir())


def test_a_bad_sample_counts_once_and_not_once_an_epoch(tmp_path: Path) -> None:
    """1 of 40 in 500 epochs, then 10 of them, are allowed by 1 % of 1,000; the 11th is not."""
    ledger = Ledger(tmp_path, 0.01, size=40)
    for _ in range(500):
        ledger.count(39, BAD[:1])
    assert (ledger.bad, ledger.read, ledger.exceeded) == (1, 40, False)
    ledger.count(30, BAD[:10])
    assert not ledger.exceeded
    ledger.count(29, BAD[:11])
    assert ledger.exceeded
    assert files(tmp_path) == [name for _, name, _ in BAD[:11]]


def test_the_share_is_of_samples_read(tmp_path: Path) -> None:
    """Of a large set, 30 of 2,970 read are too many, and 30 of 3,000 are not."""
    ledger = Ledger(tmp_path, 0.01, size=10**6)
    ledger.count(2940, BAD[:30])
    assert ledger.exceeded
    ledger.count(30, ())
    assert not ledger.exceeded


def skipped(number: int, *, bad: bool = True) -> list[Skipped]:
    return [Skipped(f"data.json record {index}", "no caption", bad) for index in range(number)]


def test_bad_records_are_listed_and_leave_less_for_images(tmp_path: Path) -> None:
    """4 of 1,000 records leave 6 images of the first 1,000; records of no use here leave them all."""
    assert GRACE == 1000
    ledger = Ledger(tmp_path, 0.01, size=996, skipped=skipped(4))
    assert [json.loads(line)["bad"] for line in (tmp_path / LEDGER).read_text().splitlines()] == [True] * 4
    ledger.count(50, BAD[:6])
    assert not ledger.exceeded
    ledger.count(50, BAD[6:7])
    assert ledger.exceeded
    assert (ledger.bad, len(files(tmp_path))) == (7, 11)
    (tmp_path / "other").mkdir()
    ledger = Ledger(tmp_path / "other", 0.01, size=996, skipped=skipped(400, bad=False))
    ledger.count(50, BAD[:10])
    assert not ledger.exceeded
    assert len(files(tmp_path / "other")) == 410


def test_a_few_bad_records_of_a_large_source_do_not_stop_its_first_step(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 0.01, size=100_000, skipped=skipped(500))
    ledger.count(63, BAD[:1])
    assert not ledger.exceeded


def test_too_many_bad_records_are_refused_before_the_run() -> None:
    check_skipped(skipped(10), 30, 0.01)
    check_skipped(skipped(500, bad=False), 30, 0.0)
    with pytest.raises(UserError, match=r"11 of 41 records are bad, such as data.json record 0 \(no caption\)"):
        check_skipped(skipped(11), 30, 0.01)


def test_counts_survive_a_resume(tmp_path: Path) -> None:
    """A checkpoint after 5 bad samples; 3 later ones are in the list, but their steps will be taken again."""
    ledger = Ledger(tmp_path, 0.01, size=10**5, skipped=skipped(2))
    ledger.count(95, BAD[:5])
    assert (ledger.seen, ledger.bad) == (100, 5)
    ledger.count(97, BAD[5:8])
    again = Ledger(tmp_path, 0.01, size=10**5, skipped=skipped(2), seen=100, bad=5)
    assert (again.bad, again.seen) == (5, 100)
    again.count(97, BAD[5:8])
    assert (again.bad, again.seen) == (8, 200)
    assert len(files(tmp_path)) == 10


def test_an_older_run_that_counted_each_time_resumes(tmp_path: Path) -> None:
    lines = [json.dumps({"file": name, "reason": reason}) + "\n" for _, name, reason in BAD[:2]]
    (tmp_path / LEDGER).write_text("".join(lines))
    ledger = Ledger(tmp_path, 0.01, size=40, seen=360, bad=18)
    assert ledger.bad == 2
    ledger.count(38, BAD[:2])
    assert not ledger.exceeded
    assert len(files(tmp_path)) == 2


def test_the_first_bad_sample_of_a_run_is_told_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 0.5, size=9)
    ledger.count(3, ())
    assert ledger.take_news() is None
    ledger.count(1, BAD[:2])
    news = ledger.take_news()
    assert news is not None
    assert news.startswith("bad sample: 0.png (cut off)")
    assert str(tmp_path / LEDGER) in news
    ledger.count(1, BAD[2:3])
    assert ledger.take_news() is None
