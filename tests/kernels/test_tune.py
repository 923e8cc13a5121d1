"""The tuner on fake timings: what it decides, what it refuses, and the files that it writes."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hive_kernels import tune
from hive_kernels.attention import tiles as attention_tiles
from hive_kernels.attention import tuning as attention_tuning
from hive_kernels.choice import Choice, literal
from hive_kernels.gated_residual import measured_tiles as gated_table
from hive_kernels.gated_residual import tuning as gated_tuning
from hive_kernels.projector import measured_tiles as projector_table
from hive_kernels.projector import tiles
from hive_kernels.projector import tuning as projector_tuning


class Fake:
    """A table entry whose value decides how long its call takes and what comes out."""

    def __init__(self, times, wrong=(), too_large=(), table=None):
        self.times, self.wrong, self.too_large = times, wrong, too_large
        self.table = {} if table is None else table
        self.choice = Choice("fake", self.table, "key", list(times), self.call)

    def call(self):
        value = self.table.get("key")
        if value in self.too_large:
            raise OutOfResources
        return [torch.full((3,), 2.0 if value in self.wrong else 1.0)]

    def time(self, call):
        call()
        return self.times[self.table.get("key")]


class OutOfResources(Exception):  # noqa: N818 - Triton's name
    pass


def tuning(choice: Choice, file: Path, render: Callable[[], str]) -> ModuleType:
    """An operation's module `tuning` with one choice."""
    module = ModuleType("tuning")
    vars(module).update(choices=lambda device: [choice], TABLE_FILE=file, render=render)
    return module


def test_the_fastest_wins_and_stays_in_the_table():
    fake = Fake({None: 1.0, (1,): 0.9, (2,): 0.5, (3,): 0.7})
    decision = tune.settle(fake.choice, fake.time)
    assert (decision.before, decision.after) == (None, (2,))
    assert (decision.time_before, decision.time_after) == (1.0, 0.5)
    assert fake.table == {"key": (2,)}


def test_none_takes_an_entry_out_again():
    fake = Fake({(1,): 1.0, None: 0.5}, table={"key": (1,)})
    assert tune.settle(fake.choice, fake.time).after is None
    assert fake.table == {}


def test_a_gain_within_the_noise_changes_nothing():
    fake = Fake({None: 1.0, (1,): 0.98})
    assert tune.settle(fake.choice, fake.time).after is None


def test_wrong_results_and_tiles_that_do_not_fit_never_win():
    fake = Fake({None: 1.0, (1,): 0.1, (2,): 0.1, (3,): 0.8}, wrong=[(1,)], too_large=[(2,)])
    decision = tune.settle(fake.choice, fake.time)
    assert decision.after == (3,)
    assert decision.wrong == ((1,),)
    assert "(1,) gives other results and is left out" in tune.describe(decision)


def test_another_error_leaves_the_table_as_it_was():
    fake = Fake({None: 1.0, (1,): 0.5})
    fake.times.pop((1,))
    with pytest.raises(KeyError):
        tune.settle(fake.choice, fake.time)
    assert fake.table == {}


def test_files_are_rewritten_and_read_back(tmp_path, monkeypatch):
    """The real tables with the fake's decision, through render, to a file, and back as Python."""
    gemm, tile = ("hidden", 90, "bfloat16", 1152, 960), (128, 128, 64, 8, 3)
    row = ("layer_norm", 90, "bfloat16", 2048)
    monkeypatch.setitem(projector_table.GEMM, gemm, tile)
    monkeypatch.setitem(projector_table.ELEMENTWISE, row, (1, 2048, 1, 4))
    fake = Fake({None: 1.0, (1024, 4): 0.5}, table={})
    choice = fake.choice._replace(table=gated_table.ELEMENTWISE, key=(90, "bfloat16"))
    monkeypatch.delitem(gated_table.ELEMENTWISE, (90, "bfloat16"), raising=False)

    def call():
        return [torch.ones(3)]

    def timer(call):
        return 0.5 if gated_table.ELEMENTWISE.get((90, "bfloat16")) else 1.0

    module = tuning(choice._replace(call=call), tmp_path / "measured_tiles.py", gated_tuning.render)
    module.TABLE_FILE.write_text(gated_tuning.TABLE_FILE.read_text())
    try:
        (decision,) = tune.tune([module], torch.device("cpu"), timer, seconds=60, only="")
    finally:
        gated_table.ELEMENTWISE.pop((90, "bfloat16"), None)
    assert tune.describe(decision) == "fake: None -> (1024, 4), 1 -> 0.5 ms"
    assert runpy.run_path(str(module.TABLE_FILE))["ELEMENTWISE"] == {(90, "bfloat16"): (1024, 4)}

    file = tmp_path / "projector.py"
    file.write_text(projector_tuning.render())
    read = runpy.run_path(str(file))
    assert read["GEMM"][gemm] == tile
    assert read["ELEMENTWISE"][row] == (1, 2048, 1, 4)
    assert tiles.gemm("hidden", 90, "bfloat16", 10**5, 1152, 960) == tiles.Gemm(*tile)
    assert tiles.gemm("hidden", 90, "bfloat16", 100, 1152, 960) is None
    assert tiles.elementwise("layer_norm", 90, "bfloat16", 1152) == tiles.Tile(1, 2048, 1, 4)


def test_only_what_differs_from_the_rule_is_written(monkeypatch):
    """Of attention's table, whose entries of the rule are in memory too."""
    key = ("forward", 86, 16, 64, "short")
    other = ("forward", 103, 16, 64, "short")  # a GPU that the rule doesn't name
    monkeypatch.setitem(attention_tiles.TABLE, key, (32, 64, 4, 2))
    monkeypatch.setitem(attention_tiles.TABLE, other, (64, 64, 4, 2))
    text = attention_tuning.render()
    namespace: dict[str, Any] = {}
    exec(text, namespace)
    assert namespace["MEASURED"] == {key: (32, 64, 4, 2), other: (64, 64, 4, 2)}
    assert attention_tiles.lookup("forward", 86, torch.float16, 64, 64) == (32, 64, 4, 2)


def test_the_files_are_as_the_tuner_writes_them():
    for module in tune.tunable():
        assert module.TABLE_FILE.read_text() == module.render()


def test_literals():
    assert literal({}) == "{}"
    assert literal({("b", 2): (1,), ("a", 1): (2, 3)}) == '{\n    ("a", 1): (2, 3),\n    ("b", 2): (1,),\n}'


def test_no_time_no_decisions(tmp_path):
    fake = Fake({None: 1.0, (1,): 0.5})
    file = tmp_path / "table.py"
    file.write_text("as it was")
    module = tuning(fake.choice, file, lambda: "as it was")
    assert [*tune.tune([module], torch.device("cpu"), fake.time, seconds=-1, only="")] == []


def test_no_candidate_begins_after_the_end():
    fake = Fake({None: 1.0, (1,): 0.5})
    decision = tune.settle(fake.choice, fake.time, until=0)
    assert (decision.after, decision.untried) == (None, 1)
    assert tune.describe(decision) == "fake: None stays, 1 ms; 1 candidates not tried"


def test_what_was_decided_before_an_error_is_in_the_file(tmp_path):
    good, bad = Fake({None: 1.0, (1,): 0.5}), Fake({None: 1.0, (1,): 0.5})
    bad.times.pop((1,))  # its measurement fails
    file = tmp_path / "table.py"
    file.write_text("")
    module = tuning(good.choice, file, lambda: repr(good.table))
    vars(module)["choices"] = lambda device: [good.choice, bad.choice]

    def timer(call: Callable[[], object]) -> float:
        return good.time(call) if call == good.call else bad.time(call)

    with pytest.raises(KeyError):
        [*tune.tune([module], torch.device("cpu"), timer, seconds=60, only="")]
    assert file.read_text() == "{'key': (1,)}"
    assert [path.name for path in tmp_path.iterdir()] == ["table.py"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_refuses_in_one_sentence(capsys):
    assert tune.main([]) == 2
    assert capsys.readouterr().err == "tuning measures on a GPU, and torch sees none here\n"
