"""The plug-in, as lmms-eval finds and calls it; its interface stands in for lmms-eval where that isn't installed."""

import abc
import importlib
import importlib.util
import sys
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.tiny_llava import save_tiny_llava

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Manifest:
    model_id: str
    simple_class_path: str


class Interface(abc.ABC):
    """`lmms_eval.api.model.lmms` of lmms-eval 0.7."""

    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...


@pytest.fixture
def installed(monkeypatch):
    """lmms-eval, or what the plug-in uses of it."""
    if importlib.util.find_spec("lmms_eval") is None:
        names = (
            "lmms_eval",
            "lmms_eval.api",
            "lmms_eval.api.model",
            "lmms_eval.models",
            "lmms_eval.models.registry_v2",
        )
        modules = {name: types.ModuleType(name) for name in names}
        modules["lmms_eval.api.model"].lmms = Interface  # type: ignore[attr-defined]
        modules["lmms_eval.models.registry_v2"].ModelManifest = Manifest  # type: ignore[attr-defined]
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
    yield
    sys.modules.pop("hive.evaluate.lmms", None)


def test_found_called_and_batched(installed, tmp_path):
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]["hive"]
    module, _, function = entry.partition(":")
    manifest = getattr(importlib.import_module(module), function)()
    assert manifest.model_id == "hive"
    module, _, name = manifest.simple_class_path.rpartition(".")
    model_class = getattr(importlib.import_module(module), name)

    folder = str(save_tiny_llava(tmp_path / "llava"))
    documents = {number: Image.new("L", (9, 9), 40 * number) for number in range(5)} | {5: None}

    def images(document):
        return [] if document is None else [document]

    requests = [
        types.SimpleNamespace(
            args=(f"Which of {number}?", {"max_new_tokens": 4 if number < 2 else 6}, images, number, "mme", "test")
        )
        for number in documents
    ]
    answers = []
    for size in (1, "4"):
        model = model_class(pretrained=folder, device="cpu", batch_size=size, max_batch_size=None)
        model.task_dict["mme"] = {"test": documents}
        answers.append(model.generate_until(requests))
    assert answers[0] == answers[1]
    assert len(answers[0]) == 6
    start = answers[0][3][:2]
    requests[3].args[1]["until"] = [start]
    assert model.generate_until(requests)[3] == ""
    with pytest.raises(NotImplementedError, match="gives no likelihoods"):
        model.loglikelihood(requests)
