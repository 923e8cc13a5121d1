"""The image-caption set and the tokenizer that come with the package, as they lie in the repository."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from emoji.outputs import SCHEMA
from emoji.packages import PERMISSIVE, VENDORS
from emoji.splits import SPLITS, UNSEEN_STYLE, family
from PIL import Image
from transformers import AutoTokenizer

EMBEDDED = Path(__file__).parents[3] / "hive" / "data" / "embedded"
HELD_OUT = [split for split in SPLITS if split != "train"]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, Any]]]:
    return {split: pq.read_table(EMBEDDED / f"{split}.parquet").to_pylist() for split in SPLITS}


@pytest.fixture(scope="module")
def pixels(splits: dict[str, list[dict[str, Any]]]) -> dict[str, list[bytes]]:
    """Each row's pixels, after a check that they are 64x64 RGB."""
    decoded: dict[str, list[bytes]] = {}
    for split, rows in splits.items():
        decoded[split] = []
        for row in rows:
            with Image.open(io.BytesIO(row["image"])) as image:
                assert (image.mode, image.size) == ("RGB", (64, 64))
                decoded[split].append(image.tobytes())
    return decoded


@pytest.mark.parametrize("split", SPLITS)
def test_schema(split: str) -> None:
    file = pq.ParquetFile(EMBEDDED / f"{split}.parquet")
    assert file.schema_arrow.equals(SCHEMA)
    assert file.metadata.num_rows > 100
    assert file.metadata.row_group(0).num_rows <= 512


def test_sizes() -> None:
    assert sum(file.stat().st_size for file in EMBEDDED.rglob("*") if file.is_file()) <= 15_000_000


def test_rows_are_complete(splits: dict[str, list[dict[str, Any]]]) -> None:
    for rows in splits.values():
        for row in rows:
            assert all(row[name] for name in ("image", "caption", "concept", "group", "subgroup"))
            assert row["tone"] == ""
            assert "\n" not in row["caption"]


def test_only_permissive_vendors(splits: dict[str, list[dict[str, Any]]]) -> None:
    vendors = {split: {row["vendor"] for row in rows} for split, rows in splits.items()}
    trained = set(PERMISSIVE) - {UNSEEN_STYLE}
    assert vendors == {
        "train": trained,
        "seen_style": trained,
        "unseen_style": {UNSEEN_STYLE},
        "unseen_concept": trained,
    }


def test_unseen_concepts_are_unseen(splits: dict[str, list[dict[str, Any]]]) -> None:
    families = {split: {family(row["concept"]) for row in rows} for split, rows in splits.items()}
    for split in ("train", "seen_style", "unseen_style"):
        assert families["unseen_concept"].isdisjoint(families[split])


def test_seen_styles_are_of_trained_concepts(splits: dict[str, list[dict[str, Any]]]) -> None:
    trained = {row["concept"] for row in splits["train"]}
    assert trained >= {row["concept"] for row in splits["seen_style"]}


def test_no_picture_occurs_twice(pixels: dict[str, list[bytes]]) -> None:
    everything = [picture for pictures in pixels.values() for picture in pictures]
    assert len(everything) == len(set(everything))
    assert all(len(set(picture)) > 1 for picture in everything)


def test_licences_and_attribution() -> None:
    attribution = (EMBEDDED / "ATTRIBUTION.md").read_text()
    for vendor in PERMISSIVE:
        package = VENDORS[vendor].package
        assert f"{package.name}@{package.version}" in attribution
    names = {path.name for path in (EMBEDDED / "LICENSES").iterdir()}
    assert names == {"Apache-2.0.txt", "MIT-fluent.txt", "MIT-emojibase.txt", "Unicode-3.0.txt"}


def test_tokenizer(splits: dict[str, list[dict[str, Any]]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "tokenizer", local_files_only=True)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<bos>", "<eos>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 1, 2048)
    newline = tokenizer.convert_tokens_to_ids("Ċ")
    assert [token for token in tokenizer.get_vocab() if "Ċ" in token] == ["Ċ"]
    captions = [row["caption"] for rows in splits.values() for row in rows]
    for caption, ids in zip(captions, tokenizer(captions).input_ids, strict=True):
        assert tokenizer.decode(ids) == caption
        assert not {0, 1, newline} & set(ids)
    both = tokenizer(f"{captions[0]}\n\n{captions[1]}\n").input_ids
    assert both == [
        *tokenizer(captions[0]).input_ids, newline, newline, *tokenizer(captions[1]).input_ids, newline
    ]  # fmt: skip
    assert tokenizer.decode(tokenizer("日本 🐸\n\t ").input_ids) == "日本 🐸\n\t "
