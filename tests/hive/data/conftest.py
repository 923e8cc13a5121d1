"""Small data sets in each official layout, and a small tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers

from hive.config import DataConfig
from hive.data.images import ImageSpec
from hive.data.pairs import Pairs, open_pairs
from hive.data.text import Tokenizer
from tests.support.pairs_on_the_spot import CAPTIONS, encoded


@pytest.fixture
def llava(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as a LLaVA JSON beside a folder of images 0.png, 1.png, ..."""

    def write(records: object, images: int = 3) -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        for number in range(images):
            (tmp_path / "images" / f"{number}.png").write_bytes(encoded(number))
        path = tmp_path / "pairs.json"
        path.write_text(records if isinstance(records, str) else json.dumps(records))
        return path

    return write


@pytest.fixture
def eighteen(llava: Callable[..., Path]) -> Pairs:
    """18 good pairs, the images in LLaVA's layout."""
    records = [{"image": f"images/{number}.png", "caption": caption} for number, caption in enumerate(CAPTIONS)]
    return open_pairs(str(llava(records, images=len(CAPTIONS))), None, DataConfig())


@pytest.fixture(scope="session")
def backend() -> tokenizers.Tokenizer:
    """A byte-level BPE like SmolLM2's, trained on the captions."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.train_from_iterator(
        CAPTIONS,
        tokenizers.trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<|endoftext|>"],
            show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return made


@pytest.fixture
def tokenizer(backend: tokenizers.Tokenizer) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(backend.to_str()), 0)


@pytest.fixture
def spec() -> ImageSpec:
    return ImageSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "square")
