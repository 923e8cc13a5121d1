"""Tokens: BOS and the closing newline, and packing that restarts every sample."""

import json
import pickle

import pytest
import tokenizers
import torch

from hive.data.text import Tokenizer, pack


def test_encode(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a red disc", 77)
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.backend.decode(ids[-1:]) == "\n"
    assert tokenizer.backend.decode(ids) == "a red disc\n"
    assert tokenizer.encode("a red disc", 4) == ids[:4]
    assert ids[-1] not in ids[:4]
    assert tokenizer.encode(" a  red\ndisc ", 77) == ids
    assert max(ids) < tokenizer.vocab_size


def test_special_tokens_in_a_caption_are_text_also_after_pickling(tokenizer: Tokenizer) -> None:
    for made in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        assert made.bos_id not in made.encode("<|endoftext|>", 77)[1:]
        assert made.fingerprint == tokenizer.fingerprint


def test_fingerprint_sees_merges_and_bos(backend: tokenizers.Tokenizer, tokenizer: Tokenizer) -> None:
    state = json.loads(backend.to_str())
    state["model"]["merges"].reverse()
    other = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)), 0)
    assert other.fingerprint != tokenizer.fingerprint
    assert Tokenizer(tokenizers.Tokenizer.from_str(backend.to_str()), 1).fingerprint != tokenizer.fingerprint


def test_pack() -> None:
    pixels = [torch.full((3, 2, 2), value, dtype=torch.uint8) for value in (1, 2)]
    batch = pack([(pixels[0], [9, 5, 6, 7]), (pixels[1], [9, 8])], [(4, "x.png", "empty")])
    assert batch.tokens.tolist() == [9, 5, 6, 9]
    assert batch.targets.tolist() == [5, 6, 7, 8]
    assert batch.positions.tolist() == [0, 1, 2, 0]
    assert batch.cu_seqlens.tolist() == [0, 3, 4]
    assert (batch.max_seqlen, batch.samples, batch.token_count) == (3, 2, 4)
    assert batch.pixels[:, 0, 0, 0].tolist() == [1, 2]
    assert batch.bad == ((4, "x.png", "empty"),)
    assert batch.pixels.dtype == torch.uint8
    assert batch.tokens.dtype == batch.targets.dtype == batch.positions.dtype == torch.int64
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.to("meta").pixels.device.type == "meta"
    empty = pack([], [])
    assert (empty.samples, empty.token_count, empty.cu_seqlens.tolist(), empty.max_seqlen) == (0, 0, [0], 0)


@pytest.mark.parametrize("caption", ["a red disc on the left", "кошка 猫 🐶 é", "a </s> b", "word"])
def test_a_text_is_spelled_out_as_it_is_read(tokenizer: Tokenizer, caption: str) -> None:
    whole = f"{caption}\n"
    ids = tokenizer.encode(caption, 1000)
    for limit in range(3, len(ids) + 2):
        kept, cut = tokenizer.show(caption, limit)
        assert kept + cut == whole
        data = tokenizer.backend.decode(ids[1:limit], skip_special_tokens=False).replace("\ufffd", "")
        assert kept == data  # the whole characters among the ids that a model reads
        assert (cut == "") == (limit >= len(ids))
