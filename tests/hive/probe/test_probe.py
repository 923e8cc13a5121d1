"""The whole probe on images that any tower can tell apart, and the command around it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hive.export.tower import export_tower, trained_form
from hive.model.families import image_spec
from hive.probe import run as run_module
from hive.probe.__main__ import main
from hive.probe.augment import Augmentation
from hive.probe.datasets.images import assemble, from_array
from hive.probe.fit import learning_rates, total_steps
from hive.probe.plan import TrainingPlan, in_order
from hive.probe.protocol import Protocol
from hive.probe.run import HeadResult, probe, probe_accuracy
from hive.probe.table import PAPER, SETS, paper_rows, table
from hive.probe.tower import ProbedTower, load_tower
from tests.support.facts import made_up
from tests.support.layouts import MADE
from tests.support.tiny_towers import shade_set, shades, tiny_tower

SHORT = Protocol(learning_rates=(1e-6, 1e-2), weight_decays=(0.05,), epochs=12, batch_size=16, min_lr=1e-6, seeds=2)


def test_every_head_learns_shades_and_validation_finds_the_rate(tmp_path: Path) -> None:
    results = probe(ProbedTower(tiny_tower()), shade_set(), SHORT, cache=tmp_path)
    assert [result.head for result in results] == ["attention", "mean", "cls"]
    for result in results:
        assert result.learning_rate == 1e-2
        assert len(result.test) == 2
        assert result.mean > 0.9
        assert np.shape(result.validation) == (2, 2)


def test_siglip_has_no_class_token() -> None:
    results = probe(ProbedTower(tiny_tower("siglip")), shade_set(), SHORT)
    assert [result.head for result in results] == ["attention", "mean"]


def test_tokens_on_the_fly_are_those_of_the_cache() -> None:
    tower = ProbedTower(tiny_tower())
    kept = probe(tower, shade_set(), SHORT, heads=["attention"])
    fresh = probe(tower, shade_set(), SHORT, heads=["attention"], cache_tokens=False)
    assert fresh[0].test == pytest.approx(kept[0].test, abs=0.04)  # fp16 in the cache
    assert np.allclose(fresh[0].validation, kept[0].validation, atol=0.2)


def test_the_test_labels_choose_nothing() -> None:
    data = shade_set()
    scrambled = assemble(
        data.name, data.classes, data.train, from_array(shades(30, 1)[0], np.zeros(30), "b"), data.validation
    )
    honest = probe(ProbedTower(tiny_tower()), data, SHORT, heads=["mean"])
    blind = probe(ProbedTower(tiny_tower()), scrambled, SHORT, heads=["mean"])
    assert honest[0].validation == probe(ProbedTower(tiny_tower()), data, SHORT, heads=["mean"])[0].validation
    assert blind[0].learning_rate == 1e-2
    assert blind[0].mean == pytest.approx(1 / 3, abs=0.05)


def test_unreadable_test_images_count_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = ProbedTower(tiny_tower())
    whole = probe(tower, shade_set(), SHORT, heads=["mean"])[0].mean
    computed = run_module.all_features

    def with_ten_bad(*arguments, **options):
        found = computed(*arguments, **options)
        found["test"].bad[:10] = True
        return found

    monkeypatch.setattr(run_module, "all_features", with_ten_bad)
    assert probe(tower, shade_set(), SHORT, heads=["mean"])[0].mean == pytest.approx(whole * 2 / 3, abs=0.05)


def test_in_memory_images() -> None:
    model = tiny_tower().train()
    results = probe_accuracy(model, shades(60, 0), shades(12, 2), shades(30, 1), protocol=SHORT, heads=["cls"], layer=3)
    assert results[0].mean > 0.9
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_augmented_images() -> None:
    pytest.importorskip("kornia")
    pixels = torch.from_numpy(shades(6, 0)[0]).permute(0, 3, 1, 2)
    augmentation = Augmentation(16)
    state = torch.get_rng_state()
    first = augmentation(pixels, 0, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == pixels.shape
    assert first.min() >= 0
    assert first.max() <= 255
    assert first.max() > 1
    assert torch.equal(augmentation(pixels, 0, 0), first)
    for seed, step in ((0, 1), (1, 0)):
        assert not torch.equal(augmentation(pixels, seed, step), first)
    # crops and colours of each image are its own: the same picture six times becomes six pictures
    same = augmentation(pixels[:1].expand(6, -1, -1, -1), 0, 0)
    assert len({tuple(image.flatten().tolist()) for image in same}) == 6
    results = probe(ProbedTower(tiny_tower()), shade_set(), Protocol(**{**vars(SHORT), "augment": True}))
    assert all(result.mean > 0.9 for result in results)


def test_augmentation_without_kornia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ValueError, match=r"--augment needs kornia: install it with pip install"):
        Augmentation(16)


def test_plan_and_schedule() -> None:
    chosen = np.arange(100, 150)
    plan = TrainingPlan(chosen, seeds=2, batch_size=10, steps=20)
    batches = list(plan)
    assert len(batches) == len(plan) == 20
    for seed in range(2):
        for epoch in range(4):  # every pass holds every image once
            seen = np.concatenate([batch[seed] for batch in batches[5 * epoch : 5 * epoch + 5]])
            assert sorted(seen) == chosen.tolist()
    assert not np.array_equal(batches[0][0], batches[0][1])
    assert [batch.shape for batch in in_order(chosen, 30)] == [(1, 30), (1, 20)]

    protocol = Protocol()  # Table 4
    assert (len(protocol.grid), protocol.batch_size, protocol.clip) == (14, 512, 3.0)
    total = total_steps(protocol, 51_200)
    assert total == 50 * 100
    peaks = torch.tensor([lr for lr, _ in protocol.grid])
    torch.testing.assert_close(learning_rates(protocol, 149, total), peaks)  # 1.5 epochs of warm-up
    torch.testing.assert_close(learning_rates(protocol, 74, total), peaks / 2)
    torch.testing.assert_close(learning_rates(protocol, total - 1, total), torch.full((14,), 1e-5))


def test_table_1() -> None:
    assert paper_rows("cars", "siglip") == {"Base": (94.86, 0.15), "SA": (94.85, 0.20), "HIVE": (95.09, 0.19)}
    assert paper_rows("caltech-256", "clip")["HIVE"] == (96.35, 0.11)
    assert paper_rows("cifar-10", "clip")["Base"] == (98.32, 0.04)
    assert paper_rows("fashion-mnist", "clip") == {}
    assert all(len(row.split()) == 2 * len(SETS) for family in PAPER.values() for row in family.values())
    ours = HeadResult("attention", [0.9, 0.92], 1e-3, 0.05, [[0.5, 0.91], [0.5, 0.93]])
    text = table("cars", "clip", [ours], Protocol(learning_rates=(1e-4, 1e-3), weight_decays=(0.05,), seeds=2))
    assert "attention pooling         91.00 ± 1.41" in text
    assert "92.00\n" in text
    assert "paper: HIVE               91.15 ± 0.23" in text
    assert "0.001 is the grid's largest learning rate" in text


@pytest.fixture
def tower_folder(tmp_path: Path) -> Path:
    model = tiny_tower()
    export_tower(model, tmp_path / "run" / "tower", image_spec(model), made_up(keeps_untrained=True))
    return tmp_path / "run" / "tower"


def flags(tower: Path, root: Path, *more: str) -> list[str]:
    short = ["--epochs", "1", "--seeds", "1", "--workers", "0", "--learning-rates", "1e-3"]
    return ["--tower", str(tower), "--dataset", "folder", "--data-root", str(root), *short, *more]


@pytest.mark.parametrize(("kept", "given", "layer"), [(False, None, 1), (True, None, 1), (True, 3, 3)])
def test_the_layer_that_hive_trained_is_read(tmp_path: Path, kept: bool, given: int | None, layer: int) -> None:
    whole, facts = tiny_tower(), made_up(read=(1,), keeps_untrained=kept)
    export_tower(trained_form(whole, facts), tmp_path / "tower", image_spec(whole), facts)
    probed = load_tower(tmp_path / "tower", given, "cpu")
    assert probed.layer == layer
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(probed.tokens(pixels), ProbedTower(whole, layer).tokens(pixels))


def test_the_command(tmp_path: Path, tower_folder: Path, capsys: pytest.CaptureFixture) -> None:
    MADE["folder"](tmp_path / "set")
    out = tmp_path / "results.json"
    arguments = flags(tower_folder, tmp_path / "set", "--cache", str(tmp_path / "cache"), "--out", str(out))
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "kept in" in said
    assert "linear on the class token" in said
    record = json.loads(out.read_text())
    assert [result["head"] for result in record["results"]] == ["attention", "mean", "cls"]
    assert record["tower"]["layer"] == 2
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "kept in" not in said
    assert said.count("read from") == 3
    assert json.loads(out.read_text())["results"] == record["results"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--dataset": "cifar"}, '--dataset is "cifar", but it must be one of cifar-10'),
        ({"--dataset": "cifar-10"}, "batches.meta is missing: get cifar-10-python.tar.gz"),
        ({"--data-root": "nowhere"}, "--data-root nowhere is no folder"),
        ({"--tower": "./nowhere"}, "--tower nowhere is neither a folder here nor in the hub's cache"),
        ({"--tower": "run"}, "give run/tower"),
        ({"--tower": "set"}, "--tower set lacks config.json: give a complete folder"),
        ({"--layer": "9"}, "--layer is 9, but the tower has hidden states 0 to 3"),
        ({"--seeds": "0"}, "--seeds is 0, but it must be 1 or more"),
        ({"--learning-rates": "-1"}, "--learning-rates is (-1.0,), but it must be one or more numbers above 0"),
        ({"--learning-rates": "inf"}, "--learning-rates is (inf,), but it must be one or more numbers above 0"),
        ({"--weight-decays": "nan"}, "--weight-decays is (nan,), but it must be one or more numbers of 0 or more"),
        ({"--out": "no/where.json"}, "--out no/where.json can't be written"),
        ({"--out": "set"}, "--out set can't be written"),
        ({"--device": "tpu"}, '--device is "tpu"'),
        ({"--cache": "set/cats/0.png"}, "set/cats/0.png can't be used (File exists): choose another"),
    ],
)
def test_bad_input(
    change: dict, sentence: str, tmp_path: Path, tower_folder: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    MADE["folder"](tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given = dict(
        zip(*[iter(flags(Path("run/tower"), Path("set"), "--cache", "cache", "--out", "out.json"))] * 2, strict=True)
    )
    assert main([part for pair in (given | change).items() for part in pair]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error
    assert sorted(tmp_path.rglob("*")) == before
