"""The report as markup, and as a browser shows it."""

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hive.config import Config, RunConfig, Schedule
from hive.config_json import to_json
from hive.recipes import load_recipe
from hive.report.__main__ import main
from hive.report.read import PNG
from hive.vlm.config import VLMConfig
from tests.support import chromium

EVIL = '<script>alert(1)</script> & "quotes" \'</td>'
VOID = {"meta", "img"}


def make_run(folder: Path, config: RunConfig, losses: list[float], **files: object) -> Path:
    """A run folder as training leaves it: a third of the losses for each stage, a held-out record after each."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(config))
    records: list[dict[str, Any]] = []
    for step, loss in enumerate(losses, 1):
        stage = 1 + 3 * (step - 1) // len(losses)
        speed = {"images_per_second": 100.0 * stage, "tokens_per_second": 400.0, "tflops": 0.5, "data_wait": 0.25}
        records.append({"kind": "train", "step": step, "stage": stage, "loss": loss, **speed, "peak_memory_gb": 1.5})
        if step % (len(losses) // 3) == 0:
            held_out = {"right": loss, "wrong": loss + 0.5, "pairs": 8, "tokens": 40}
            records.append({"kind": "heldout/unseen_style", "step": step, "stage": stage, **held_out})
            nothing = {"right": None, "wrong": None, "pairs": 0, "tokens": 0}
            records.append({"kind": "heldout/broken", "step": step, "stage": stage, **nothing})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "maps").mkdir()
    for name in ("attention-heldout-1", "gradients-heldout-1"):
        data = io.BytesIO()
        Image.fromarray(np.full((30, 700, 3), 90, np.uint8)).save(data, "PNG")
        (folder / "maps" / f"{name}.png").write_bytes(data.getvalue())
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(str(text))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs, the first with everything that a folder may hold."""
    folder = tmp_path_factory.mktemp("runs")
    ledger = "".join(json.dumps({"file": f"shard.tar:{EVIL}-{n}", "reason": EVIL}) + "\n" for n in range(130))
    rows = [{"stage": 1, "step": {"bytes": 10}}, {"stage": 2, "remark": EVIL}]
    depth = {"decoder_layer": 5, "hidden_state": 7, "entropy": 0.91234567, "spread": 1.5, "update": 0.25}
    depths = [{**depth, "gate": gate, "image_share": None} for gate in (None, 0.0)]
    losses = {"stage": 2, "text_loss": 8.0, "loss": None}
    check = json.dumps({**losses, "depths": depths, "warnings": [EVIL]}) + "\n"
    efficiency = json.dumps({"machine": {"speed": 41.23456789}, "notes": [EVIL, None], "rows": rows})
    curve = (2 + 5 * np.exp(-np.arange(60) / 15)).tolist()
    demo = load_recipe("demo")
    baseline = Config(recipe="demo", method="self-attention", schedule3=Schedule(peak_lr=3e-4), data="a <b> c")
    return [
        make_run(
            folder / "first <i>",
            demo,
            curve,
            bad_samples__jsonl=ledger,
            efficiency__json=efficiency,
            injection__jsonl=check,
        ),
        make_run(folder / "second", baseline, curve[::2]),
    ]


class Tree(HTMLParser):
    """Checks that elements are nested, and collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        elif self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Path:
    out = runs[0].parent / "new" / "page.html"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    return out


def test_nothing_is_fetched_and_nothing_is_run(page: Path) -> None:
    tree = Tree(page.read_text())
    assert "script" not in tree.tags
    assert "link" not in tree.tags
    assert not [name for name, _ in tree.attributes if name.startswith("on")]
    links = [value or "" for name, value in tree.attributes if name in ("src", "href", "srcset", "xlink:href")]
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "url(" not in page.read_text()
    assert "@import" not in page.read_text()
    assert ("http-equiv", "Content-Security-Policy") in tree.attributes


def test_everything_of_a_run_is_there(page: Path) -> None:
    tree = Tree(page.read_text())
    assert ["unseen style", "first <i>", "60", "8", f"{2 + 5 * np.exp(-59 / 15):.3f}"] in [row[:5] for row in tree.rows]
    assert ["unseen style", "second", "30"] in [row[:3] for row in tree.rows]
    assert ["stage 3: images/s", "300", "300"] in tree.rows
    assert ["stage 1: waiting for data, %", "25.0", "25.0"] in tree.rows
    assert ["peak memory, GB", "1.50", "1.50"] in tree.rows
    assert ["machine.speed", "41.2346"] in tree.rows
    assert ["notes.1", EVIL] in tree.rows
    assert ["first <i>", "2", "8", "–", "5", "0.9123", "1.5", "0.25", "–", "–"] in tree.rows
    assert ["first <i>", "2", "8", "–", "5", "0.9123", "1.5", "0.25", "0", "–"] in tree.rows
    first = tree.rows.index(["stage", "step.bytes", "remark"])
    assert tree.rows[first + 1 : first + 3] == [["1", "10", ""], ["2", "", EVIL]]
    assert [f"shard.tar:{EVIL}-0", EVIL] in tree.rows
    assert sum(row[0].startswith("shard.tar:") for row in tree.rows) == 100
    text = " ".join(tree.text)
    assert "130 records and images could not be used, the first 100 of them below" in text
    assert f"first <i>, stage 2: {EVIL}" in text
    assert "second: every record and image could be used" in text
    assert tree.tags.count("img") == 4
    assert tree.tags.count("svg") == 2  # a split without a readable image has no chart


def test_differences_of_configuration_stand_out(page: Path) -> None:
    text = page.read_text()
    marked = [row.split("</tr>")[0] for row in text.split('<tr class="differs">')[1:]]
    found = {Tree(f"<tr>{row}</tr>").rows[0][0] for row in marked}
    assert {"method", "data", "schedule3.peak_lr"} <= found
    assert "seed" not in found


def test_fine_tuning_beside_pre_training(runs: list[Path], tmp_path: Path) -> None:
    tuned = make_run(tmp_path / "tuned", VLMConfig(), [3.0, 2.0, 1.0])
    assert main([str(runs[1]), str(tuned), "--out", str(tmp_path / "page.html")]) == 0
    rows = Tree((tmp_path / "page.html").read_text()).rows
    assert ["feature_layer", "–", "-1"] in rows
    assert ["depths", "aligned", "–"] in rows
    assert ["stage 1: images/s", "100", "100"] in rows


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(Config()))
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    text = " ".join(Tree((tmp_path / "page.html").read_text()).text)
    for sentence in (
        "No step has been recorded",
        "No held-out loss",
        "No stage has been checked",
        "No maps have been drawn",
    ):
        assert sentence in text


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda run, out: [], "RUN is missing: give the folder of a run"),
        (lambda run, out: [str(run), str(run)], "is given more than once"),
        (lambda run, out: [str(run), "nowhere"], "RUN nowhere is no run folder"),
        (lambda run, out: [str(run), "--out", str(out.parent)], "is a folder"),
        (lambda run, out: [str(run), "--out", str(run / "config.json" / "page.html")], "can't be used"),
        (lambda run, out: (run / "efficiency.json").write_text("{") and [str(run)], "efficiency.json can't be read"),
        (lambda run, out: (run / "maps" / "cut.png").write_text("x") and [str(run)], "cut.png is no PNG image"),
        (lambda run, out: (run / "maps" / "cut.png").write_bytes(PNG) and [str(run)], "cut.png is no PNG image"),
        (lambda run, out: (run / "metrics.jsonl").write_text('{"kind": "train"}\n') and [str(run)], "no run of HIVE"),
        (lambda run, out: (run / "bad_samples.jsonl").write_text("[]\n") and [str(run)], "no run of HIVE wrote"),
        (lambda run, out: (run / "injection.jsonl").write_text("{}\n") and [str(run)], "no run of HIVE wrote"),
        (lambda run, out: (run / "config.json").write_text("[]") and [str(run)], "The saved configuration"),
    ],
)
def test_bad_input(spoil: Any, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, out = make_run(tmp_path / "run", Config(), [3.0, 2.0, 1.0]), tmp_path / "page.html"
    before = len(list(tmp_path.rglob("*")))
    flags = spoil(run, out)
    assert main([*flags, *([] if "--out" in flags else ["--out", str(out)])]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not out.exists()
    assert len(list(tmp_path.rglob("*"))) <= before + 1  # what the test itself has spoilt


@pytest.mark.skipif(chromium.find() is None, reason="no Chromium on the PATH or in HIVE_CHROMIUM")
def test_a_browser_shows_it(page: Path, tmp_path: Path) -> None:
    with chromium.Page(chromium.find() or "", tmp_path) as browser:
        for width, dark in ((1200, False), (400, True)):
            browser.open(page.as_uri(), width, dark)
            assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth == 700)")
            # wide tables scroll within themselves, so the page never does sideways
            assert browser.value("document.documentElement.scrollWidth") <= width
            lines = browser.value("[...document.querySelectorAll('polyline')].map(line => line.getBBox().width)")
            assert len(lines) == 16
            assert min(lines) > 20
            background = browser.value("getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
            asked = [
                event["params"]["request"]["url"]
                for event in browser.events
                if event["method"] == "Network.requestWillBeSent"
            ]
            assert {url.split(":")[0] for url in asked} == {"file", "data"}
            complaints = [
                event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")
            ]
            assert complaints == []
