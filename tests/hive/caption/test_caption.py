"""The command: from a run and images to captions, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from hive.caption.__main__ import main
from hive.caption.captions import Draw
from hive.data.images import load
from hive.train.trained import load_run
from tests.hive.model.test_generate import images, logits
from tests.support.tiny_run import TINY, train

Say = Callable[..., list[dict]]


COLOURS = ("red", "green", "blue", "white")


def square(colour: str, shade: int = 0) -> Image.Image:
    """A picture that only its colour tells from others, a little darker by `shade`."""
    picture = Image.new("RGB", (16, 16), colour)
    return picture.point(lambda value: max(0, value - 3 * shade))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for two seconds until it names the colours."""
    data = tmp_path_factory.mktemp("data")
    records = [(f"{colour}{shade}.png", colour, shade) for colour in COLOURS for shade in range(5)]
    for name, colour, shade in records:
        square(colour, shade).save(data / name)
    lines = [{"image": name, "caption": f"a {colour} one"} for name, colour, _ in records]
    (data / "pairs.json").write_text(json.dumps(lines))
    flags = ["--stages", "3", "--max-steps", "80", "--epochs", "50", "--schedule3.peak-lr", "1e-2"]
    flags += ["--dataset.no-augment", "--data", str(data / "pairs.json"), "--out", str(data / "out")]
    assert train([*TINY, *flags]) == 0
    return data / "out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and what people have beside them; EXIF says that the last one lies on its side."""
    folder = tmp_path_factory.mktemp("images")
    for number, colour in enumerate(COLOURS[:3]):
        square(colour).save(folder / f"{number}.png")
    (folder / "inside" / ".hidden").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (64, 64), "green")
    picture.paste("white", (0, 0, 40, 24))
    picture.save(folder / "inside" / "turned.JPG", exif=exif, quality=95)
    shutil.copy(folder / "0.png", folder / "inside" / ".hidden" / "left out.png")
    (folder / "inside" / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def say(capsys: pytest.CaptureFixture, run: Path) -> Say:
    """The lines of --json for these arguments."""

    def say(*arguments: object, code: int = 0) -> list[dict]:
        assert main([str(run), *map(str, arguments), "--json"]) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return say


def test_captions_are_what_the_training_forward_likes_best(run: Path, folder: Path, say: Say) -> None:
    lines = say(folder, "--max-tokens", 20)
    names = ["0.png", "1.png", "2.png", "inside/turned.JPG"]
    assert [line["image"] for line in lines] == [str(folder / name) for name in names]
    trained = load_run(run / "model", torch.device("cpu"))
    tokenizer = trained.tokenizer
    for line in lines:
        pixels = load(Path(line["image"]).read_bytes(), trained.spec, 64)
        ids = [tokenizer.bos_id]
        while len(ids) <= 20 and (len(ids) == 1 or "\n" not in tokenizer.backend.decode(ids[-1:])):
            ids.append(int(logits(trained.model, pixels, ids).argmax()))
        text = tokenizer.backend.decode(ids[1:])
        assert line["caption"] == text.strip()
        assert line["finished"] == text.endswith("\n")
    assert [line["caption"] for line in lines[:3]] == [f"a {colour} one" for colour in COLOURS[:3]]
    assert all(line["finished"] for line in lines[:3])


def test_one_by_one_by_glob_and_from_the_checkpoint(
    run: Path, folder: Path, say: Say, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    together = say(folder)
    assert say(folder, "--batch-size", 1) == say(folder, "--batch-size", 3) == together
    assert say(folder / "*.png", folder / "inside", folder / "0.png") == together
    assert say(folder / "**" / "turned.*") == together[3:]
    moved = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    assert main([str(moved), str(folder / "1.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == together[1]


def test_the_table(run: Path, folder: Path, say: Say, capsys: pytest.CaptureFixture) -> None:
    lines = say(folder, "--max-tokens", 3)
    assert main([str(run), str(folder), "--max-tokens", "3"]) == 0
    width = len(str(folder / "inside/turned.JPG"))
    table = [f"{line['image']:<{width}}  {line['caption']}{'' if line['finished'] else ' ...'}" for line in lines]
    assert capsys.readouterr().out.splitlines() == table


def test_a_bad_image_is_said_and_the_others_are_captioned(
    run: Path, folder: Path, say: Say, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bad.jpg").write_bytes((folder / "0.png").read_bytes()[:50])
    (tmp_path / "page.png").write_text("<html>")
    names = [tmp_path / "bad.jpg", folder / "0.png", tmp_path / "page.png"]
    bad, good, page = say(*names, code=1)
    assert [good] == say(folder / "0.png")
    assert all(line["error"] and "caption" not in line for line in (bad, page))
    assert main([str(run), *map(str, names)]) == 1
    output = capsys.readouterr()
    assert output.out == f"{names[1]!s:<{len(str(names[2]))}}  {good['caption']}{'' if good['finished'] else ' ...'}\n"
    assert [line.startswith(f"error: {name}") for line, name in zip(output.err.splitlines(), names[::2], strict=True)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{run}"], "No image is given"),
        (["{run}", "{folder}/none.png"], "none.png does not exist"),
        (["{run}", "{folder}/*.gif"], "*.gif matches no file"),
        (["{run}", "{folder}/inside/.hidden/.."], None),
        (["{run}/maps2", "{folder}"], "is no run folder"),
        (["{run}/tower", "{folder}"], "tower holds a clip_vision_model model, and is no run folder"),
        (["{folder}", "{folder}"], "is no run folder"),
        (["{run}", "{run}/checkpoints"], "is a folder without images"),
        (["{run}", "{folder}", "--temperature", "0.5"], "--temperature goes with --samples"),
        (["{run}", "{folder}", "--samples", "0"], "--samples is 0, but it must be 1 or more"),
        (["{run}", "{folder}", "--kernel", "none"], '--kernel is "none"'),
    ],
)
def test_mistakes(
    arguments: list[str], sentence: str | None, run: Path, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    code = main([word.format(run=run, folder=folder) for word in arguments])
    output = capsys.readouterr()
    assert code == (0 if sentence is None else 2), output.err
    if sentence is not None:
        assert sentence in output.err
        assert output.err.count("\n") == 1
        assert output.out == ""


def test_what_is_drawn_depends_on_image_and_seed_alone(folder: Path, say: Say) -> None:
    flags = ("--samples", 3, "--temperature", 1.5)
    lines = say(folder, *flags)
    assert [line["sample"] for line in lines] == [0, 1, 2] * 4
    assert len({line["caption"] for line in lines}) > 3
    assert say(folder / "1.png", *flags) == lines[3:6]
    assert say(folder, *flags, "--seed", 1) != lines
    assert [line["caption"] for line in say(folder, "--samples", 1, "--temperature", 1e-300)] == [
        line["caption"] for line in say(folder)
    ]


def test_tokens_are_drawn_as_often_as_the_softmax_says() -> None:
    values = torch.tensor([[0.0, 1.0, 2.0, -50.0]])
    draw = Draw(images(1), 2.0, "salt")
    drawn = torch.cat([draw(values) for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=4) / 4000
    want = torch.tensor([1.0, 2.718281828**0.5, 2.718281828, 0])
    assert torch.allclose(shares, want / want.sum(), atol=0.03)
