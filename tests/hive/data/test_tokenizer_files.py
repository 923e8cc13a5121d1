"""Tokenizers as folders have them: special tokens named in every way or none, no code run, and no text lost."""

from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hive.data.text import Tokenizer, load_tokenizer
from hive.data.tokenizer_files import load_transformers_tokenizer
from hive.errors import UserError
from tests.support.hub_layouts import added, mobilellm, write_json, write_qwen2, write_sentencepiece

END = "<|endoftext|>"
CONFIG = mobilellm(9, 3).config
EMPTY = mobilellm(9, 3).tokenizer_config
CAPTION = "a red disc, two cafés and a 🙂"


def folder_with(path: Path, backend: tokenizers.Tokenizer, **special: Any) -> Path:
    path.mkdir(exist_ok=True)
    backend.save(str(path / "tokenizer.json"))
    write_json(path, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", **special})
    return path


def test_load_from_a_folder(tmp_path: Path, backend: tokenizers.Tokenizer, tokenizer: Tokenizer) -> None:
    folder = folder_with(tmp_path / "t", backend, eos_token=END)  # no BOS: EOS stands in
    loaded = load_tokenizer(str(folder))
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("a blue star", 77) == tokenizer.encode("a blue star", 77)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"bos_token": END}},
        {"tokenizer_config": {"bos_token": {"__type": "AddedToken", **added(END)}}},
        {"tokenizer_config": {"bos_token": added(END)}},
        {"tokenizer_config": {}, "special_tokens_map": {"bos_token": END}},
        {"special_tokens_map": {"bos_token": added(END), "eos_token": added(END), "unk_token": ""}},
        {"tokenizer_config": {"bos_token": ""}, "special_tokens_map": {"bos_token": END}},
        {"tokenizer_config": {"bos_token": END}, "special_tokens_map": {"bos_token": "", "pad_token": ""}},
        {
            "tokenizer_config": {
                "bos_token": "",
                "eos_token": END,
                "pad_token": "",
                "additional_special_tokens": ["", END],
            }
        },
        {"tokenizer_config": {"bos_token": None, "eos_token": None, "unk_token": ""}, "config": {"bos_token_id": 0}},
        {"tokenizer_config": {}, "config": {"eos_token_id": [9999, 0], "bos_token_id": None}},
        {"config": {"bos_token_id": -1}, "generation_config": {"eos_token_id": 0}},
    ],
)
def test_ways_to_name_the_first_token(files: dict, tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    backend.save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path, **files)
    assert load_tokenizer(str(tmp_path)).bos_id == 0
    loaded = load_transformers_tokenizer(str(tmp_path))
    assert "" not in loaded.special_tokens_map.values()
    assert len(loaded) == backend.get_vocab_size(), "no token was added"


@pytest.mark.parametrize(
    "named", [{}, {"bos_token": "", "eos_token": ""}, {"bos_token": {"content": None}}, {"bos_token": 3}]
)
def test_a_tokenizer_without_a_first_token(named: dict, tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    with pytest.raises(UserError, match="neither a BOS nor an EOS"):
        load_tokenizer(str(folder_with(tmp_path / "t", backend, **named)))


def test_mobilellms_empty_names_stand_for_the_models_pieces(tmp_path: Path) -> None:
    pieces = write_sentencepiece(tmp_path)
    write_json(tmp_path, config=CONFIG, tokenizer_config=EMPTY)
    loaded = load_transformers_tokenizer(str(tmp_path))
    assert [loaded.bos_token, loaded.eos_token, loaded.unk_token] == ["<s>", "</s>", "<unk>"]
    assert [loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id] == [1, 2, 0]
    assert len(loaded) == pieces.get_piece_size()
    assert load_tokenizer(str(tmp_path)).encode(CAPTION, 99) == [1, *pieces.encode(CAPTION + "\n")]
    loaded.save_pretrained(tmp_path / "saved")  # as hive.vlm saves it with a model
    assert gettempdir() not in (tmp_path / "saved" / "tokenizer_config.json").read_text()
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    assert saved.bos_token_id == 1
    assert saved.encode(CAPTION, add_special_tokens=False) == pieces.encode(CAPTION)


@pytest.mark.parametrize(
    ("options", "bos"),
    [
        ({"unk_id": 3, "bos_id": 0, "eos_id": 1, "bos_piece": "[BOS]", "eos_piece": "[EOS]"}, 0),
        ({"bos_id": -1, "eos_id": 1}, 1),  # EOS stands in
    ],
)
def test_other_pieces_of_a_sentencepiece_model(options: dict, bos: int, tmp_path: Path) -> None:
    pieces = write_sentencepiece(tmp_path, **options)
    write_json(tmp_path, tokenizer_config=EMPTY)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.vocab_size == pieces.get_piece_size()
    caption = "hello world, a red disc"
    assert loaded.encode(caption, 99)[:-1] == [bos, *pieces.encode(caption)]


@pytest.mark.parametrize("normalization", ["identity", "nmt_nfkc"])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(
    "options",
    [
        {"remove_extra_whitespaces": True, "byte_fallback": False},
        {"add_dummy_prefix": False},
        {"user_defined_symbols": ["<image>", "red"]},
    ],
)
def test_sentencepiece_models_of_every_kind(kind: str, normalization: str, options: dict, tmp_path: Path) -> None:
    pieces = write_sentencepiece(tmp_path, model_type=kind, normalization_rule_name=normalization, **options)
    write_json(tmp_path, tokenizer_config=EMPTY)
    loaded = load_tokenizer(str(tmp_path))
    for text in (CAPTION, "half ① ﬁne 日本 🙂", "<image> red reddish", "▁", "a ▁ b"):
        assert loaded.backend.encode(text, add_special_tokens=False).ids == pieces.encode(text), text
    assert not {1, 2} & set(loaded.encode("red</s>dish <s> in", 99)[1:-1]), "what spells a control token is text"
    last = loaded.encode("a disc", 99)[-1]
    keeps_newline = pieces.encode("a\n") != pieces.encode("a")
    assert last == (pieces.encode("a disc\n")[-1] if keeps_newline else 2)
    assert len(loaded.encode("", 99)) >= 2, "a caption without a letter still ends"


@pytest.mark.parametrize("kind", ["word", "char"])
def test_a_sentencepiece_model_that_is_not_supported(kind: str, tmp_path: Path) -> None:
    write_sentencepiece(tmp_path, model_type=kind, byte_fallback=False, use_all_vocab=True)
    with pytest.raises(UserError, match="no unigram or BPE model"):
        load_tokenizer(str(tmp_path))


def test_older_forms_of_a_vocabulary(tmp_path: Path) -> None:
    write_qwen2(tmp_path)
    write_json(tmp_path, tokenizer_config={"tokenizer_class": "Qwen2Tokenizer", "eos_token": END})
    whole = load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    assert load_tokenizer(str(tmp_path)).encode(CAPTION, 99)[1:] == whole.encode(CAPTION, 99)[1:]
    write_json(tmp_path, tokenizer_config={"tokenizer_class": "GPT2Tokenizer", "bos_token": ""})
    assert load_tokenizer(str(tmp_path)).bos_id == 330, "the default of its class"
    words = tmp_path / "words"
    words.mkdir()
    (words / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "he", "##llo"]))
    write_json(words, tokenizer_config={"tokenizer_class": "BertTokenizer", "bos_token": "[CLS]"})
    assert load_tokenizer(str(words)).encode("Hello world", 99) == [2, 4, 5, 3], "SEP stands for the newline"


@pytest.mark.parametrize("unknown", [None, "[UNK]"])
def test_a_tokenizer_that_loses_text(unknown: str | None, tmp_path: Path) -> None:
    """One drops what it does not know, the other has one token for all of it."""
    vocabulary = {"[UNK]": 0, END: 1, "h": 2, "e": 3, "hell": 4}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token=unknown) if unknown is None
                                else models.WordLevel(vocabulary, unk_token=unknown))  # fmt: skip
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match='loses text: it drops letters of "hello world", or knows none'):
        load_tokenizer(str(folder_with(tmp_path / "t", made, eos_token=END)))


def test_remote_code_is_never_run(tmp_path: Path, backend: tokenizers.Tokenizer, tokenizer: Tokenizer) -> None:
    folder = folder_with(tmp_path / "t", backend)
    (folder / "code.py").write_text("open(__file__ + '.ran', 'w')\nclass Config: pass\nclass Tok: pass\n")
    named = {"eos_token": END, "auto_map": {"AutoTokenizer": ["code.Tok", "code.Tok"]}}
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "code.Config"}}
    write_json(folder, config=config, tokenizer_config=named)
    assert load_tokenizer(str(folder)).fingerprint == tokenizer.fingerprint
    (folder / "tokenizer.json").unlink()
    backend.model.save(str(folder))  # vocab.json and merges.txt, whose class only the code knows
    with pytest.raises(UserError, match="can't be loaded"):
        load_tokenizer(str(folder))
    assert not (folder / "code.py.ran").exists()


@pytest.mark.parametrize("files", [{}, {"tokenizer_config": {"tokenizer_class": "LlamaTokenizer"}, "config": CONFIG}])
def test_a_folder_without_a_vocabulary(files: dict, tmp_path: Path) -> None:
    write_json(tmp_path, **files)
    with pytest.raises(UserError, match=r"lacks the vocabulary of a tokenizer \(tokenizer\.json, tokenizer\.model, "):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.model", "x", "has a tokenizer.model that is no SentencePiece model"),
        ("tokenizer.json", "{}", "can't be loaded"),
        ("tokenizer.json", "", "can't be loaded"),
    ],
)
def test_a_broken_file(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[1]", "{", '"text"'])
def test_broken_settings(content: str, tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    folder = folder_with(tmp_path / "t", backend, eos_token=END)
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json .*: give a whole file"):
        load_tokenizer(str(folder))


def test_tokenizers_that_are_not_there(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), "./none", "a/b/c"):
        with pytest.raises(UserError, match="is not a folder"):
            load_tokenizer(name)
    with pytest.raises(UserError, match="hf download nobody/none"):
        load_tokenizer("nobody/none")


def test_mobilellm_without_sentencepiece_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install sentencepiece protobuf"):
        load_tokenizer(str(tmp_path))
