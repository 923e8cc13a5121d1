"""The command, from finished runs to files, and what it refuses."""

import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hive.data.pairs import EMBEDDED_HELDOUT, hash_order, open_embedded
from hive.maps.__main__ import main
from hive.maps.cli import Attention, parse
from hive.train.__main__ import main as train
from tests.support.tiny_run import TINY

SHORT = [*TINY, "--stages", "3", "--max-steps", "1"]
CAPTION = "a red square on blue"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    assert train([*SHORT, "--out", str(folder / "hive")]) == 0
    (folder / "baseline").mkdir()
    (folder / "baseline" / "maps").write_text("a file where the maps' folder should be")
    assert train([*SHORT, "--method", "self-attention", "--out", str(folder / "baseline")]) == 0
    (folder / "baseline" / "maps").unlink()
    return folder / "hive", folder / "baseline"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    picture = Image.new("RGB", (40, 24), "blue")
    picture.paste("red", (8, 4, 20, 16))
    path = tmp_path_factory.mktemp("image") / "Red square.png"
    picture.save(path)
    return path


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_a_run_ends_with_the_maps_of_four_held_out_pairs(runs: tuple[Path, Path]) -> None:
    names = {f"{kind}-heldout-{n}.{ending}" for kind in ("gradients", "attention") for n in (1, 2, 3, 4) for ending in ("png", "npz")}  # fmt: skip  # noqa: E501
    assert {path.name for path in (runs[0] / "maps").iterdir()} == names
    first = [open_embedded(split) for split in EMBEDDED_HELDOUT]
    expected = [pairs.captions[hash_order(pairs.names, 0)[0]] for pairs in first]
    expected.append(first[0].captions[hash_order(first[0].names, 0)[1]])
    captions = [arrays(runs[0] / "maps" / f"gradients-heldout-{n}.npz")["caption"].item() for n in (1, 2, 3, 4)]
    assert captions == expected


def test_a_run_whose_maps_fail_is_not_lost(runs: tuple[Path, Path]) -> None:
    assert (runs[1] / "tower").is_dir()
    assert not (runs[1] / "maps").exists()


def test_gradients(runs: tuple[Path, Path], image: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--image", str(image), "--caption", CAPTION, "--out", str(tmp_path / "out")]
    assert main(["gradients", "--run", *map(str, runs), *flags]) == 0
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(files) == {f"gradients-red-square{end}" for end in (".png", "-hive.npz", "-self-attention.npz")}
    found = arrays(files["gradients-red-square-hive.npz"])
    assert found["maps"].shape == (4, 2, 2)
    assert found["energy_share"].sum() == pytest.approx(1)
    assert found["image"].shape == (256, 256, 3)
    with Image.open(files["gradients-red-square.png"]) as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 100
    assert "share of gradient energy by layer" in capsys.readouterr().out


def test_attention(runs: tuple[Path, Path], image: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--image", str(image), "--caption", CAPTION, "--words", "square", "Red", "--head", "1"]
    assert main(["attention", "--run", str(runs[0]), *flags]) == 0
    found = arrays(runs[0] / "maps" / "attention-red-square.npz")
    assert found["weights"].shape == (2, 2, 2, 2, 2)
    assert found["words"].tolist() == ["square", "red"]
    shown = found["weights"][:, :, 1].reshape(2, 2, 4).astype(np.float64)
    entropy = -(shown * np.log(shown)).sum(-1)
    np.testing.assert_allclose(found["entropy"], entropy, rtol=1e-5)
    np.testing.assert_allclose(found["effective_area"], np.exp(entropy) / 4, rtol=1e-5)
    assert (runs[0] / "maps" / "attention-red-square.png").exists()
    assert "effective area" in capsys.readouterr().out


def test_two_runs_of_one_method_are_told_apart(runs: tuple[Path, Path], image: Path, tmp_path: Path) -> None:
    other = shutil.copytree(runs[0], tmp_path / "other")
    flags = ["--image", str(image), "--caption", "costs $5 or $6 <b>", "--out", str(tmp_path / "out")]
    assert main(["attention", "--run", str(runs[0]), str(other), *flags]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"attention-red-square{end}" for end in (".png", "-hive.npz", "-other.npz")}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["gradients", "--out", "nowhere"], "--run is missing: give a run folder"),
        (["gradients", "--run", "nowhere"], "--run nowhere is no run folder"),
        (["gradients", "--run", "RUN", "RUN"], "more than once"),
        (["gradients", "--run", "EMPTY"], "has no whole checkpoint yet"),
        (["gradients", "--image", "nowhere.png"], "--image nowhere.png can't be read (No such file or directory)"),
        (["gradients", "--image", "RUN/config.json"], "The image can't be used"),
        (["gradients", "--caption", " "], "--caption is empty"),
        (["gradients", "--caption", "caf\udcff"], "no UTF-8 text"),
        (["gradients", "--device", "tpu"], '--device is "tpu"'),
        (["gradients", "--kernel", "cuda"], "--kernel is cuda, but that can't run on cpu"),
        (["attention", "--words", "horse"], '--words names "horse"'),
        (["attention", "--head", "2"], "--head is 2, but the model's query heads are 0 to 1"),
        (["attention", "--head", "first"], '--head: "first" is neither mean nor a number from 0'),
        (["gradients", "--out", "IMAGE"], "can't be used"),
    ],
)
def test_bad_input(
    flags: list[str],
    sentence: str,
    runs: tuple[Path, Path],
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(runs[0] / "config.json", empty)
    places = {
        "RUN": str(runs[0]),
        "EMPTY": str(empty),
        "IMAGE": str(image),
        "RUN/config.json": str(empty / "config.json"),
    }
    given = [places.get(flag, flag) for flag in flags]
    defaults = {"--image": str(image), "--caption": CAPTION, "--out": str(tmp_path / "out")}
    if "is missing" not in sentence:
        defaults["--run"] = str(runs[0])
    given += [part for flag, value in defaults.items() if flag not in given for part in (flag, value)]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "Expected one of {gradients, attention}"),
        (["saliency"], "Unrecognized options: saliency"),
        (["gradients"], "Missing from python -m hive.maps gradients: --image FILE"),
        (["gradients", "--run", "a", "--image", "b"], "Missing from python -m hive.maps gradients: --caption TEXT"),
        (["gradients", "--words", "a"], "Unrecognized options: --words"),
    ],
)
def test_mistyped_flags(flags: list[str], sentence: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(flags)
    assert exit_.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_lists_are_given_at_once_or_one_by_one() -> None:
    usual = ["attention", "--image", "a.png", "--caption", "b"]
    together = parse([*usual, "--run", "r", "s", "--words", "sun", "gradients", "--head", "3"])
    apart = parse([*usual, "--run", "r", "--words", "sun", "--run", "s", "--words", "gradients", "--head", "mean"])
    assert isinstance(together, Attention)
    assert isinstance(apart, Attention)
    assert together.runs == apart.runs == [Path("r"), Path("s")]
    assert list(chain(*together.words)) == list(chain(*apart.words)) == ["sun", "gradients"]
    assert (together.head, apart.head) == (3, "mean")


def test_a_checkpoint_of_another_shape(
    runs: tuple[Path, Path], image: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = shutil.copytree(runs[0], tmp_path / "run", ignore=shutil.ignore_patterns("maps", "model"))
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"hidden_size": 16', '"hidden_size": 32'))
    flags = ["--image", str(image), "--caption", CAPTION]
    assert main(["gradients", "--run", str(run), *flags]) == 2
    assert "does not fit its config.json" in capsys.readouterr().err
    assert not (run / "maps").exists()
