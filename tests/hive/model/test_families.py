"""The table of families, and that a new one is its own module and nothing else."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from transformers import PreTrainedModel

from hive.config import LanguageConfig, LanguageFamilyName, TowerConfig, TowerFamilyName
from hive.data.text import Batch
from hive.errors import UserError
from hive.model.build import build_model, resolved
from hive.model.families import LANGUAGES, TOWERS, either, fresh_language
from hive.model.fusion import HierarchicalFusion, JointFusion
from hive.model.language import LanguageModel
from hive.model.pretrained import language_model, load_language
from hive.stages import enter_stage, trained_parts
from tests.support import toy_family
from tests.support.tiny_models import LANGUAGE, TINY, VISION, tiny_batch

Fusion = Literal["cross", "joint"]


def test_the_table_has_what_the_configuration_names() -> None:
    assert tuple(family.name for family in TOWERS.values()) == tuple(TOWERS) == get_args(TowerFamilyName)
    assert tuple(family.name for family in LANGUAGES.values()) == tuple(LANGUAGES) == get_args(LanguageFamilyName)
    assert either(TOWERS.values()) == "CLIP or SigLIP"


@pytest.mark.parametrize("name", TOWERS)
def test_a_towers_settings_lead_back_to_its_configuration(name: str) -> None:
    family = TOWERS[name]
    config = TowerConfig(**{item.name: getattr(VISION, item.name) for item in dataclasses.fields(TowerConfig)})
    settings = family.to_settings(config)
    assert isinstance(settings, family.settings_class)
    assert family.described(TowerConfig(), settings) == dataclasses.replace(config, family=family.name)


@pytest.fixture
def with_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LANGUAGES, toy_family.NAME, toy_family.FAMILY)


def languages() -> list[LanguageConfig]:
    """A small model of each family, the toy among them."""
    return [dataclasses.replace(LANGUAGE, family=name) for name in (*get_args(LanguageFamilyName), toy_family.NAME)]


def stock_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Logits of each text run through transformers alone."""
    texts = batch.tokens.split(batch.cu_seqlens.diff().tolist())
    return torch.cat([model(input_ids=text[None]).logits[0] for text in texts])


@pytest.mark.usefixtures("with_toy")
@pytest.mark.parametrize("config", languages(), ids=lambda config: config.family)
class TestEveryLanguageFamily:
    def test_settings_lead_back_to_the_configuration(self, config: LanguageConfig) -> None:
        family = LANGUAGES[config.family]
        changed = dataclasses.replace(config, rope_theta=5e5, norm_eps=1e-6, tied_embeddings=False)
        assert family.described(LanguageConfig(), family.to_settings(changed)) == changed

    def test_packed_logits_are_transformers_own(self, config: LanguageConfig) -> None:
        torch.manual_seed(0)
        stock = fresh_language(config)
        model, batch = LanguageModel(stock, "torch"), tiny_batch((7, 1, 12, 4))
        packed = model.logits(model(model.embed(batch.tokens), batch))
        torch.testing.assert_close(packed, stock_logits(stock, batch), atol=1e-5, rtol=1e-5)

    def test_a_saved_model_is_read_back(self, config: LanguageConfig, tmp_path: Path) -> None:
        saved = fresh_language(config)
        saved.save_pretrained(tmp_path)
        loaded = load_language(str(tmp_path))
        assert type(loaded) is type(saved)
        shaped = language_model(LanguageConfig(weights=str(tmp_path)), pretrained=False)
        assert {n: p.shape for n, p in shaped.named_parameters()} == {n: p.shape for n, p in saved.named_parameters()}
        for name, parameter in saved.named_parameters():
            assert torch.equal(loaded.get_parameter(name), parameter)

    @pytest.mark.parametrize("fusion", ["cross", "joint"])
    def test_images_start_with_the_hosts_projections(self, config: LanguageConfig, fusion: Fusion) -> None:
        """Biases included: a fresh model has them at 0, a pretrained one does not."""
        language = fresh_language(config)
        with torch.no_grad():
            for name, parameter in language.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_()
        hosts = LanguageModel(language, "torch").attention_parts([1, 3])
        made = JointFusion(hosts) if fusion == "joint" else HierarchicalFusion(hosts, False, "torch")
        features = torch.randn(2, 3, 4, config.hidden_size)
        keys_values = made.keys_values(features)
        for host, projected, (key, value) in zip(hosts.values(), features, keys_values.values(), strict=True):
            torch.testing.assert_close(key.flatten(-2), host.key(projected))
            torch.testing.assert_close(value.flatten(-2), host.value(projected))

    @pytest.mark.parametrize("changes", [{}, {"fusion": "joint"}, {"method": "self-attention"}])
    def test_a_step_of_training(self, config: LanguageConfig, changes: dict[str, str]) -> None:
        whole = dataclasses.replace(TINY, language=config, **changes)  # type: ignore[arg-type]
        model, batch = build_model(whole, "torch"), tiny_batch()
        assert resolved(TINY, model).language == config
        parameters = enter_stage(model, trained_parts(whole, 3))
        before = model(batch)
        before.backward()
        with torch.no_grad():
            for name, parameter in parameters.items():
                assert parameter.grad is not None, name
                parameter.sub_(1e-3 * parameter.grad)
        assert model(batch) < before


@pytest.mark.usefixtures("with_toy")
def test_sentences_name_the_new_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bloom"}')
    with pytest.raises(
        UserError, match=r"bloom model: give a Llama-type one \(Llama, MobileLLM, SmolLM2\), Qwen2 or Command R"
    ):
        load_language(str(tmp_path))
