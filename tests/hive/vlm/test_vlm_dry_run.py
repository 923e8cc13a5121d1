"""The dry run of fine-tuning: its steps, FLOPs and shapes are those of a run, and it says what is missing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hive.data.loader import batches
from hive.distributed import World
from hive.stages import stage_steps
from hive.train.dry_run import report
from hive.vlm.__main__ import main
from hive.vlm.chat import ChatText
from hive.vlm.cli import parse
from hive.vlm.config import VLMConfig, load_recipe
from hive.vlm.fine_tuning import fine_tuning, open_sets
from hive.vlm.outline import Length, empty_batch, outline
from tests.support.tiny_chats import PATCHES, chat, make_set, save_tower, tiny_vlm

SHAPE = """
--language.hidden-size 24 --language.layers 3 --language.heads 2 --language.kv-heads 1 --language.mlp-size 40
--batch-size 8 --micro-batch-size 2 --device cpu --dataset.workers 0 --dataset.heldout-pairs 2
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> VLMConfig:
    folder = tmp_path_factory.mktemp("vlm")
    data = ["--data", str(make_set(folder / "first")), "--data2", str(make_set(folder / "second", 10, 30))]
    weights = ["--vision.weights", str(save_tower(folder / "tower"))]
    return parse([*SHAPE.split(), *weights, *data, "--epochs", "1", "--out", str(folder / "run")]).config


def rows(text: str) -> dict[int, list[str]]:
    return {int(line[0]): line.split() for line in text.splitlines() if line[:2] in ("1 ", "2 ")}


@pytest.mark.parametrize("stage", [1, 2])
def test_steps_and_flops_are_those_of_a_run(config: VLMConfig, stage: int) -> None:
    task, outlined = fine_tuning(config, False, World(0, 1, torch.device("cpu"))), outline(config)
    data, parts = task.sets[stage], task.trained_parts(stage)
    assert stage_steps(config, stage, outlined.samples[stage]) == stage_steps(config, stage, data.epoch_pairs)
    steps = batches(
        data.pairs, task.tokenizer, task.model.tower.spec, config.dataset,
        seed=0, batch_size=len(data.pairs), micro_batch_size=len(data.pairs), first_step=0, steps=1,
    )  # fmt: skip
    ((batch,),) = list(steps)
    assert outlined.flops(stage) == pytest.approx(task.flops(batch, parts) / batch.samples)


def test_the_shapes_of_a_micro_batch_are_those_of_the_loaders() -> None:
    """Two conversations with an image, of five tokens of which two are supervised; the last is only predicted."""
    tokenizer = chat()
    text = ChatText([5, tokenizer.image_id, 6, 7, 8, 9], [False, False, False, False, True, True])
    real = tokenizer.pack([(torch.zeros(3, 16, 16, dtype=torch.uint8), text)] * 2, ())
    length = Length(text=4, answers=2, has_image=True)
    assert length.rows(PATCHES) == 4 + PATCHES
    empty = empty_batch(length, 2, tiny_vlm())
    shapes = {name: (value.shape, value.dtype) for name, value in empty.tensors().items()}
    assert shapes == {name: (value.shape, value.dtype) for name, value in real.tensors().items()}
    assert (empty.max_seqlen, empty.images) == (real.max_seqlen, real.images)


def test_what_is_printed(config: VLMConfig) -> None:
    text = report(outline(config))
    assert "recipe demo, method vlm" in text
    for stage, data in open_sets(config).items():  # shares are those of what is trained on
        share = 100 * sum(data.pairs.has_image(index) for index in range(len(data.pairs))) / len(data.pairs)
        assert f"40 conversations, {share:.0f} % with an image" in text.splitlines()[stage]
    assert [row[3] for row in rows(text).values()] == ["5", "5"]
    assert rows(text)[1][-1] == "projector"
    assert rows(text)[2][-2:] == ["projector,", "language"]
    assert text.endswith("Nothing is missing.")


def test_the_papers_steps_without_anything_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Table 5's, and a sentence for the tower, the language model and both data sets; nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert main(["--recipe", "llama-3.2-1b", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert [row[3] for row in rows(shown).values()] == ["2,180", "11,540"]
    missing = [line for line in shown.splitlines() if line.startswith("missing: ")]
    assert [line.split()[1] for line in missing] == ["--vision.weights", "--language.weights", "--data", "--data2"]
    assert "pre-train one first" in missing[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", [1, 2])
def test_the_set_of_a_stage_that_is_left_out_is_missing_too(config: VLMConfig, stage: int) -> None:
    """A run opens both, and would be refused."""
    chosen = replace(config, stages=(stage,))
    changed = replace(chosen, data2="nowhere.json") if stage == 1 else replace(chosen, data="nowhere.json")
    text = report(outline(changed))
    assert f"missing: {'--data2' if stage == 1 else '--data'} nowhere.json does not exist" in text
    assert list(rows(text)) == [stage]


def test_a_missing_tokenizer_is_not_missing_data(config: VLMConfig) -> None:
    text = report(outline(replace(config, language=replace(config.language, tokenizer="/nowhere/tokenizer"))))
    assert "without their tokenizer an image and 64 text tokens each, 32 of them answers, are assumed" in text
    assert "missing: The tokenizer /nowhere/tokenizer is not a folder" in text


def test_the_recipe_has_the_shape_of_the_papers_tower() -> None:
    vision = load_recipe("llama-3.2-1b").vision
    assert (vision.family, vision.image_size, vision.layers, vision.hidden_size) == ("siglip", 384, 24, 1024)
