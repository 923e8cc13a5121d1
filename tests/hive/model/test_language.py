"""The packed language model against transformers' own forward."""

import pytest
import torch
from transformers import PreTrainedModel

from hive.config import LanguageConfig
from hive.data.text import Batch
from hive.model.families import fresh_language
from hive.model.language import LanguageModel
from tests.support.gradients import gradient
from tests.support.tiny_models import LANGUAGE, tiny_batch


def stock_logits(llama: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Logits of each text run through transformers alone, and of all padded together."""
    texts = batch.tokens.split(batch.cu_seqlens.diff().tolist())
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    mask = torch.arange(padded.shape[1]) < batch.cu_seqlens.diff()[:, None]
    return llama(input_ids=padded, attention_mask=mask.long()).logits[mask]


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("llama3_rope", [False, True])
def test_packed_forward_equals_the_stock_padded_one(backend: str, llama3_rope: bool) -> None:
    torch.manual_seed(0)
    llama = fresh_language(LanguageConfig(**{**vars(LANGUAGE), "llama3_rope": llama3_rope}))
    model, batch = LanguageModel(llama, backend), tiny_batch((7, 1, 12, 4))
    with torch.no_grad():
        expected = stock_logits(llama, batch)
        actual = llama.lm_head(model(model.embed(batch.tokens), batch))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_loss_equals_cross_entropy_of_the_stock_logits() -> None:
    torch.manual_seed(0)
    llama = fresh_language(LANGUAGE)
    model, batch = LanguageModel(llama, "torch"), tiny_batch((7, 1, 12, 4))
    expected = torch.nn.functional.cross_entropy(stock_logits(llama, batch), batch.targets, reduction="sum")
    actual = model.loss(model(model.embed(batch.tokens), batch), batch.targets)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpoint_activations in (False, True):
        torch.manual_seed(0)
        llama = fresh_language(LANGUAGE)
        model, batch = LanguageModel(llama, "torch", checkpoint_activations), tiny_batch()
        model.loss(model(model.embed(batch.tokens), batch), batch.targets).backward()
        gradients.append({name: gradient(parameter) for name, parameter in llama.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_parameter_names_are_transformers_own() -> None:
    llama = fresh_language(LANGUAGE)
    names = set(dict(llama.named_parameters()))
    ours = {name.removeprefix("model.") for name, _ in LanguageModel(llama, "torch").named_parameters()}
    assert ours == names
