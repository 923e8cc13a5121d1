"""Tokens: BOS and the closing newline, no code from folders, and packing that restarts every sample."""

import json
import pickle
from pathlib import Path

import pytest
import tokenizers
import torch

from hive.data.text import Tokenizer, load_tokenizer, pack
from hive.errors import UserError


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


def folder_with(path: Path, backend: tokenizers.Tokenizer, **special: str) -> Path:
    path.mkdir(exist_ok=True)
    backend.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    return path


def test_load_from_a_folder(tmp_path: Path, backend: tokenizers.Tokenizer, tokenizer: Tokenizer) -> None:
    folder = folder_with(tmp_path / "t", backend, eos_token="<|endoftext|>")  # no BOS: EOS stands in
    loaded = load_tokenizer(str(folder))
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("a blue star", 77) == tokenizer.encode("a blue star", 77)
    with pytest.raises(UserError, match="neither a BOS nor an EOS"):
        load_tokenizer(str(folder_with(tmp_path / "t", backend)))


def test_remote_code_is_never_run(tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    folder = folder_with(tmp_path / "t", backend, eos_token="<|endoftext|>")
    hook = "open(__file__ + '.ran', 'w')\nclass Config: pass\nclass Tok: pass\n"
    (folder / "code.py").write_text(hook)
    (folder / "config.json").write_text(json.dumps({"model_type": "odd", "auto_map": {"AutoConfig": "code.Config"}}))
    config = {"eos_token": "<|endoftext|>", "auto_map": {"AutoTokenizer": ["code.Tok", "code.Tok"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="can't be loaded"):
        load_tokenizer(str(folder))
    assert not (folder / "code.py.ran").exists()


def test_tokenizers_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (
        (str(tmp_path / "none"), "not a folder"),
        ("./none", "not a folder"),
        (str(tmp_path / "empty"), "tokenizer.json"),
        ("nobody/none", "hf download nobody/none"),
    ):
        with pytest.raises(UserError, match=message):
            load_tokenizer(name)


def sentencepiece_model(path: Path, words: list[str]) -> None:
    """Writes a SentencePiece BPE model of the words' pieces, as MobileLLM ships one."""
    pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    model = pb2.ModelProto()
    for piece, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        model.pieces.add(piece=piece, score=0, type=kind)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0, type=6)
    grown = ["▁" + word[:end] for word in words for end in range(2, len(word) + 1)]
    letters = sorted(set("▁" + "".join(words)))
    for rank, piece in enumerate(dict.fromkeys(["▁" + word[0] for word in words] + grown)):
        model.pieces.add(piece=piece, score=-rank, type=1)
    for rank, piece in enumerate(letters):
        model.pieces.add(piece=piece, score=-1000 - rank, type=1)
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    path.write_bytes(model.SerializeToString())


def test_mobilellm_folder_loads_without_remote_code(tmp_path: Path) -> None:
    sentencepiece_model(tmp_path / "tokenizer.model", ["red", "disc"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mobilellm", "auto_map": {"AutoConfig": "c.C"}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    loaded = load_tokenizer(str(tmp_path))
    ids = loaded.encode("red disc", 77)
    assert [loaded.backend.id_to_token(i) for i in ids] == ["<s>", "▁red", "▁disc", "<0x0A>"]


def test_mobilellm_without_sentencepiece_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install sentencepiece protobuf"):
        load_tokenizer(str(tmp_path))


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
