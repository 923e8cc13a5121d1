"""A check finds every problem that was planted, once, with its place; and its exit code is what a run would meet."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hive.config import DataConfig
from hive.data.__main__ import main
from hive.data.check import CHUNK, WORTH_WORKERS, Findings, look_at_all, verdict
from hive.data.images import ImageSpec
from hive.data.look import Facts
from hive.data.pairs import Pairs, Skipped, open_pairs
from hive.data.problems import describe_problems, kind_of
from hive.data.repeats import describe_repeats
from hive.data.source import Reader
from hive.data.summary import Reading
from hive.data.text import Tokenizer
from tests.support.pairs_on_the_spot import encoded
from tests.support.tiny_chats import make_set, said

QUIET = Console(quiet=True)


@pytest.fixture
def reading(tokenizer: Tokenizer, spec: ImageSpec) -> Reading:
    return Reading(tokenizer, spec, DataConfig(workers=1), "pairs", "captions", "python -m hive.data")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A LLaVA JSON of 40 pairs, nine of them planted: five that a header shows, four that decoding alone shows."""
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(encoded(number, "JPEG", (48, 40)))
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes(b"<html>404</html>")
    (tmp_path / "5.png").write_bytes(encoded(5)[:20])
    (tmp_path / "6.png").write_bytes(b"<html>403</html>")
    Image.new("1", (2000, 1000)).save(tmp_path / "7.png")
    for number in (8, 9, 10, 11):
        (tmp_path / f"{number}.png").write_bytes(encoded(number, "JPEG", (48, 40))[:-60])
    records = [{"image": f"{number}.png", "caption": f"thing number {number}"} for number in range(40)]
    (tmp_path / "pairs.json").write_text(json.dumps(records))
    return tmp_path / "pairs.json"


def flags(data: Path, out: Path, *others: str) -> list[str]:
    return ["--data", str(data), "--out", str(out), "--dataset.max-megapixels", "1", *others]


def problems(out: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (out / "problems.jsonl").read_text().splitlines()]
    assert len({line["file"] for line in lines}) == len(lines)
    return {line["file"]: line["reason"] for line in lines}


def test_headers_show_what_is_wrong_in_front_of_the_pixels(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(flags(damaged, tmp_path / "out")) == 0  # 5 of 40, and the share is of 1,000 samples or more
    assert sorted(problems(tmp_path / "out")) == [f"{number}.png" for number in (3, 4, 5, 6, 7)]
    printed = capsys.readouterr().out
    assert "2  is an HTML or XML text" in printed
    assert "1  the file is empty" in printed
    assert "7.png: 2000x1000 pixels, more than 1 megapixels" in printed
    assert "5.png (" in printed
    assert "--decode decodes every image" in printed
    assert "A run would start: 5 of 40 samples are bad, and --dataset.max-bad-share 0.01 allows 10." in printed
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        sheet.load()


def test_decoding_shows_the_rest(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(flags(damaged, tmp_path / "out", "--decode", "--dataset.max-bad-share", "0.008")) == 2
    assert set(problems(tmp_path / "out")) == {f"{number}.png" for number in range(3, 12)}
    printed = capsys.readouterr().out
    assert "4  damaged or cut off" in printed
    assert "and 1 more" in printed
    assert "A run would stop: 9 of 40 samples are bad, more than the 8 that" in printed
    assert "31 JPEG RGB" in printed


def test_too_few_pairs_are_checked_all_the_same(llava: Callable[..., Path], tmp_path: Path, capsys) -> None:
    data = llava([{"image": f"images/{number}.png", "caption": "a"} for number in range(3)])
    (tmp_path / "images" / "1.png").write_bytes(b"")
    assert main(flags(data, tmp_path / "out")) == 2
    printed = capsys.readouterr().out
    assert "A run would not start: The data holds 3 pairs, but at least 4 are needed" in printed
    assert problems(tmp_path / "out") == {"images/1.png": "the file is empty"}


def test_records_that_were_left_out_count_if_they_are_bad(eighteen: Pairs, reading: Reading) -> None:
    skipped = [Skipped(f"pairs.json record {n}", "has an empty caption", True) for n in range(11)]
    skipped += [Skipped(f"pairs.json record {n}", "has no image", False) for n in range(11, 60)]
    findings = look_at_all(replace(eighteen, skipped=skipped), reading, False, QUIET)
    assert (findings.bad_records, findings.bad_samples, len(findings.problems)) == (11, 0, 60)
    starts, sentence = verdict(findings, reading)
    assert not starts
    assert "11 of 29 samples are bad, more than the 10" in sentence
    generous = replace(reading, options=replace(reading.options, max_bad_share=0.011))
    assert verdict(findings, generous)[0]


def test_a_bad_image_of_several_pairs_counts_once(llava, reading: Reading, tmp_path: Path) -> None:
    pairs = open_pairs(
        str(llava([{"image": f"images/{n % 3}.png", "caption": f"c {n}"} for n in range(9)])), None, DataConfig()
    )
    (tmp_path / "images" / "1.png").unlink()
    findings = look_at_all(pairs, reading, False, QUIET)
    assert findings.bad_samples == 1
    assert [problem.place for problem in findings.problems] == ["images/1.png"]
    assert "can't be read" in findings.problems[0].reason
    assert len(findings.facts.texts) == 9
    assert len(findings.facts.images) == 2


class _Interrupting:
    """A reader during which somebody presses Ctrl-C."""

    def __init__(self, last: int) -> None:
        self.last = last

    def __call__(self, row: int) -> bytes:
        if row > self.last:
            raise KeyboardInterrupt
        return b"" if row == 5 else encoded(row)


def many(number: int, reader: Reader) -> Pairs:
    return Pairs([f"c {k}" for k in range(number)], [f"{k}.png" for k in range(number)], reader, np.arange(number))


def test_ctrl_c_leaves_what_was_found(reading: Reading) -> None:
    findings = look_at_all(many(4 * CHUNK, _Interrupting(3 * CHUNK)), reading, False, QUIET)
    assert findings.interrupted
    assert (findings.looked, findings.bad_samples) == (3 * CHUNK, 1)
    assert findings.problems == [Skipped("5.png", "the file is empty", True)]


class _Cyclic:
    """Eighteen images over and over, each seventh of them empty."""

    def __call__(self, row: int) -> bytes:
        return b"" if row % 7 == 0 else encoded(row % 18)


def test_worker_processes_find_the_same(reading: Reading) -> None:
    pairs = many(WORTH_WORKERS[True], _Cyclic())
    alone = replace(reading, options=replace(reading.options, workers=0))
    one, other = look_at_all(pairs, reading, True, QUIET), look_at_all(pairs, alone, True, QUIET)
    assert one.facts == other.facts
    assert one.bad_samples == sum(k % 7 == 0 for k in range(len(pairs)))


@pytest.mark.parametrize(
    ("reasons", "kind"),
    [
        (["damaged or cut off (7 bytes missing)", "damaged or cut off (broken (a) stream)"], "damaged or cut off"),
        (["5000x900 pixels, more than 64 megapixels"], "NxN pixels, more than N megapixels"),
        (["has 12 images", "has 3 images"], "has N images"),
        (["has the column 'a b', no text", 'has the column "c", no text'], "has the column …, no text"),
        (["can't be read; isn't there"], "can't be read; isn't there"),
        (["the image x/y.jpg is missing", "the image b.jpeg is missing"], "the image … is missing"),
        (["it is a URL: https://a.org/b", "it is a URL: ftp://c"], "it is a URL"),
        (["its path C:\\a\\b is outside", "its path ../z.png is outside"], "its path … is outside"),
    ],
)
def test_kinds(reasons: Sequence[str], kind: str) -> None:
    assert {kind_of(Skipped("x/y.jpg", reason, True)) for reason in reasons} == {kind}


def test_a_hostile_name_does_not_steer_the_terminal() -> None:
    lines = describe_problems([Skipped("a\x1b[2J\ud800.jpg", "the file is empty", True)])
    assert lines[1].strip() == "a\\x1b[2J\\ud800.jpg"


def test_repeats(reading: Reading) -> None:
    rows = [*range(7), 0, 0, 1, *range(10, 20)]  # images 7, 8 and 9 have the bytes of others
    captions = [f"a photo of thing {k}" for k in range(16)] + ["other words here", "12", "?!", "sun over a lake"]
    captions[7] = captions[0]  # the same bytes too
    captions[12] = captions[11]
    pairs = replace(many(20, lambda row: encoded(rows[row])), captions=captions)
    findings = look_at_all(pairs, reading, False, QUIET)
    assert describe_repeats(pairs, findings.facts.images, findings.looked, reading) == [
        "1 of 20 captions are there again with the same image",
        "3 of 20 images repeat the bytes of another: 0.png is there under 3 names, 7.png among them",
        '1 caption stands for more than one image (2 images in all): "a photo of thing 11" for 2',
        '80 % of the captions begin with "a photo of", as a template gives',
        '2 of 20 captions have no letter, such as "12"',
    ]


def test_nothing_repeats(eighteen: Pairs, reading: Reading) -> None:
    findings = look_at_all(eighteen, reading, False, QUIET)
    assert describe_repeats(eighteen, findings.facts.images, findings.looked, reading) == []


def test_conversations_of_two_stages(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = make_set(tmp_path / "first"), make_set(tmp_path / "second", images=8, text_only=12)
    records = json.loads(second.read_text())
    records[4]["conversations"] = said([("human", "What? " * 90), ("gpt", "no")])
    second.write_text(json.dumps(records))
    sets = ["--vlm", "--data", str(first), "--data2", str(second), "--dataset.max-text-tokens", "64"]
    assert main([*sets, "--out", str(tmp_path / "out")]) == 0
    assert problems(tmp_path / "out" / "data1") == {}
    assert problems(tmp_path / "out" / "data2") == {"data2: 4.png": "no answer begins within 64 tokens"}
    printed = capsys.readouterr().out
    assert f"{first}: 40 conversations" in printed
    assert "1 step of 64 conversations" in printed
    assert "1 step of 32 conversations" in printed


def test_a_source_that_is_none_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--data", str(tmp_path / "none.json"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: --data ")
    assert not (tmp_path / "out").exists()


def test_an_empty_look_has_no_lines(reading: Reading, eighteen: Pairs) -> None:
    findings = Findings(eighteen, Facts(), 0, [])
    assert describe_repeats(eighteen, (), 0, reading) == []
    assert verdict(findings, reading)[0]
