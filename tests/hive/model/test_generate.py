"""Generated tokens are those that the training's own forward likes best, one after the other, image by image."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hive.config import Config
from hive.data.text import pack
from hive.errors import UserError
from hive.model.build import Model
from hive.model.generate import generate
from hive.model.hive import HiveModel
from tests.support.tiny_models import BASELINE, JOINT, TINY, tiny_model

BOS, TOKENS = 1, 12
CONFIGS = pytest.mark.parametrize(
    "config",
    [TINY, replace(TINY, gate=False), JOINT, BASELINE],
    ids=["gate", "no gate", "joint", "self-attention"],
)


@torch.no_grad()
def talkative(config: Config) -> Model:
    """A model whose likeliest token depends on the image and on all tokens before."""
    model = tiny_model(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.mul_(3 if "tower" not in name else 1.5)
    return model.eval()


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Model, image: Tensor, ids: list[int]) -> Tensor:
    """Of the token after `ids`, by the training's forward over a batch of this one text."""
    batch = pack([(image, [*ids, 0])])
    if isinstance(model, HiveModel):
        hidden = model.language(model.language.embed(batch.tokens), batch, model.fusion(model.project(batch), batch))
        return model.language.logits(hidden)[-1]
    hidden, layout = model.hidden(batch)
    return model.language.logits(hidden[layout.predicting_rows])[-1]


def likeliest(values: Tensor) -> Tensor:
    return values.argmax(-1)


def never(token: int) -> bool:
    return False


@CONFIGS
def test_greedy_tokens_are_those_of_the_training_forward(config: Config) -> None:
    model, pixels = talkative(config), images(4)
    texts = generate(model, pixels, BOS, likeliest, never, TOKENS)
    for image, text in zip(pixels, texts, strict=True):
        ids = [BOS]
        for _ in range(TOKENS):
            ids.append(int(logits(model, image, ids).argmax()))
        assert text == ids[1:]
    assert len({tuple(text) for text in texts}) == 4, "the images decide what is said"
    assert len({token for text in texts for token in text}) > 4


@CONFIGS
def test_logits_are_those_of_the_training_forward(config: Config) -> None:
    """For given tokens; in fp64, so that nothing but rounding to the 1e-10th is left."""
    model, pixels = talkative(config).double(), images(2)
    forced = torch.randint(2, 50, (2, 6), generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []

    def choose(values: Tensor) -> Tensor:
        seen.append(values)
        return forced[:, len(seen) - 1]

    generate(model, pixels, BOS, choose, never, 6)
    for place, values in enumerate(seen):
        for image, row, tokens in zip(pixels, values, forced, strict=True):
            want = logits(model, image, [BOS, *tokens[:place].tolist()])
            assert torch.allclose(row.double(), want, rtol=1e-5, atol=1e-5)  # generate gives fp32


def test_weights_that_diverged() -> None:
    model = talkative(TINY)
    with torch.no_grad():
        next(model.language.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        generate(model, images(1), BOS, likeliest, never, TOKENS)


@CONFIGS
def test_a_batch_gives_what_each_image_gives_alone(config: Config) -> None:
    model, pixels = talkative(config), images(3)
    together = generate(model, pixels, BOS, likeliest, never, TOKENS)
    ends = {text[place] for text, place in zip(together, (2, 5, 8), strict=True)}
    is_end: Callable[[int], bool] = ends.__contains__
    stopped = generate(model, pixels, BOS, likeliest, is_end, TOKENS)
    for image, text, whole in zip(pixels, stopped, together, strict=True):
        assert generate(model, image[None], BOS, likeliest, is_end, TOKENS) == [text]
        first = next((place for place, token in enumerate(whole) if token in ends), TOKENS - 1)
        assert text == whole[: first + 1]
