"""Every field has a range that is kept, and a saved configuration is read back or refused, never half believed."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hive.config import Config, Schedule, VisionConfig, check
from hive.config_json import fingerprinted, fixed_on_resume, from_json, to_json
from hive.errors import UserError
from hive.recipes import RECIPES
from hive.run_folder import fingerprint
from hive.train.cli import parse

OUT_OF_RANGE = """
--seed -1 | --lr 0 | --lr nan | --epochs inf | --epochs nan | --epochs 0 | --epochs -1 | --batch-size 0 | --max-steps 0
--micro-batch-size 0 | --save-every 0 | --keep-checkpoints 1
--vision.image-size 0 | --vision.patch-size 0 | --vision.patch-size -16 | --vision.heads 0 | --vision.layers 0
--vision.mlp-size 0 | --vision.hidden-size -192 | --vision.density 0 | --vision.density nan
--language.heads 0 | --language.kv-heads 0 | --language.layers 0 | --language.hidden-size 0 | --language.mlp-size -1
--language.vocab-size 0 | --language.norm-eps 0 | --language.rope-theta 0 | --language.rope-theta inf
--dataset.max-megapixels 0 | --dataset.max-bad-share nan | --dataset.workers -1 | --dataset.heldout-pairs 1
--dataset.max-text-tokens 2
--schedule1.peak-lr nan | --schedule1.peak-lr 0 | --schedule2.min-lr -1 | --schedule2.min-lr 1 | --schedule3.clip 0
--schedule3.clip nan | --schedule1.weight-decay -1 | --schedule1.beta1 1 | --schedule1.beta2 -0.1
--schedule3.warmup 1 | --schedule3.warmup nan | --schedule3.epochs inf | --schedule1.batch-size 0
--stages two | --stages 1,2, | --stages 2,1 | --stages 1,1 | --stages 4 | --stages ,
--vision.image-size 65 | --vision.hidden-size 100 | --language.hidden-size 195
"""


@pytest.mark.parametrize("flags", [case.strip() for case in OUT_OF_RANGE.strip().replace("\n", "|").split("|")])
def test_values_that_cant_work(flags: str) -> None:
    flag, value = flags.split()
    with pytest.raises(UserError, match="but it must be") as caught:
        parse([flag, value])
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{flag} is ")


def test_heads_that_dont_fit() -> None:
    with pytest.raises(UserError, match=r"--language\.heads is 3, but it must be a multiple of --language\.kv-heads"):
        parse(["--language.kv-heads", "2"])
    with pytest.raises(UserError, match=r"must be an even multiple of --language\.heads"):
        parse(["--language.heads", "64"])


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_allowed_and_read_back(name: str) -> None:
    config = RECIPES[name]()
    check(config)
    assert from_json(to_json(config), Config) == config


def test_a_whole_number_is_a_number() -> None:
    config = Config(schedule1=Schedule(clip=1), epochs=2)
    assert from_json(to_json(config), Config) == config


def test_one_learning_rate_for_all_stages() -> None:
    """Each stage's smallest rate keeps its share of the peak: the demo's is a tenth in stages 1 and 2, 0 in stage 3."""
    config = parse(["--lr", "3e-4"]).config
    rates = [(schedule.peak_lr, schedule.min_lr) for schedule in map(config.schedule, (1, 2, 3))]
    assert rates == [(3e-4, pytest.approx(3e-5)), (3e-4, pytest.approx(3e-5)), (3e-4, 0.0)]
    assert parse([]).config.schedule(1) == parse([]).config.schedule1
    assert "lr" in fixed_on_resume(config)
    assert fingerprint(parse([]).config) != fingerprint(config)
    assert "lr" not in fingerprinted(parse([]).config)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": "x"}, 'has "x" as its seed'),
        ({"seed": True}, "has true as its seed"),
        ({"seed": -1}, "can't be used: --seed is -1"),
        ({"stages": 5}, "has 5 as its stages"),
        ({"stages": ["1"]}, "as its stages"),
        ({"stages": [2, 1]}, "can't be used: --stages"),
        ({"vision": 3}, "has 3 as its vision"),
        ({"vision": {}}, r"lacks the field vision\.density"),
        ({"schedule3": dataclasses.asdict(Schedule()) | {"clip": None}}, r"has null as its schedule3\.clip"),
        ({"schedule3": dataclasses.asdict(Schedule()) | {"clip": float("nan")}}, r"--schedule3\.clip is nan"),
        ({"vision": dataclasses.asdict(VisionConfig()) | {"family": "vgg"}}, r'"vgg" as its vision\.family'),
        ({"gate": 1}, "has 1 as its gate"),
        ({"image_root": 1}, "has 1 as its image_root"),
        ({"novel": 1}, "has the unknown field novel"),
    ],
)
def test_a_saved_configuration_that_was_changed(change: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        from_json(json.dumps(json.loads(to_json(Config())) | change), Config)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("[]", "as its whole"), ("null", "as its whole"), ("{}", "lacks the field"), ('{"seed": 1}', "lacks the field")],
)
def test_a_saved_configuration_of_another_kind(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        from_json(text, Config)


def test_the_fingerprint_is_of_what_decides_the_result() -> None:
    config = Config()
    assert fingerprint(config) == fingerprint(dataclasses.replace(config, device="cpu", save_every=1))
    assert fingerprint(config) != fingerprint(dataclasses.replace(config, seed=1))


def test_a_run_that_was_saved_before_a_field_was_added() -> None:
    saved = json.loads(to_json(Config()))
    del saved["language"]["family"]
    config = from_json(json.dumps(saved), Config)
    assert config == Config()
    assert "language.family" in fixed_on_resume(config)
    assert "language.family" not in fingerprinted(config)
    with pytest.raises(UserError, match=r"lacks the field vision\.family"):
        from_json(json.dumps(saved | {"vision": {k: v for k, v in saved["vision"].items() if k != "family"}}), Config)


def test_a_saved_configuration_is_read_without_torch(tmp_path: Path) -> None:
    """Importing torch takes seconds, for which reports and `--resume RUN --help` don't wait."""
    (tmp_path / "config.json").write_text(to_json(dataclasses.replace(Config(), kernel="torch")))
    program = (
        "import sys; from pathlib import Path; from hive.config import Config; from hive import run_folder; "
        "run_folder.load_config(Path(sys.argv[1]), Config); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
