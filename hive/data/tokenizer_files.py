"""Opens the tokenizer of a folder: tokenizer.json, a SentencePiece model, or older forms."""

import importlib.util
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import tokenizers

from hive.data.sentencepiece_model import convert_sentencepiece
from hive.errors import UserError, first_line
from hive.model_files import (
    SMOLLM2,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    VOCABULARIES,
    find_files,
    how_to_get,
    smollm2_file,
)

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

EMBEDDED_TOKENIZER = Path(__file__).parent / "embedded" / "tokenizer"
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")
REWRITTEN = ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
"""Files that transformers is not shown as they are."""
WORDS = "hello world"
PROBE = "Two cafés, 日本 and a 🙂 cost 12.50\n"
"""A caption in several scripts, on which two ways of encoding are compared."""


def load_transformers_tokenizer(name: str | None = None) -> Any:
    """The tokenizer of a model or a folder as a fast one of transformers, with its chat template.

    None is the embedded one. Files are found as `find_files` says; no code that lies beside them is run. BOS and EOS
    are None where the files name none. Raises `UserError` where there is no such tokenizer, or one that loses text.
    """
    words = f"The tokenizer {name or 'that is embedded'}"
    if name == SMOLLM2:
        loaded = _load_smollm2(words)
    else:
        loaded = _load_folder(find_files(name, TOKENIZER, "The tokenizer") if name else EMBEDDED_TOKENIZER, words)
    if not _keeps_text(loaded):
        raise UserError(
            f'{words} loses text: it drops letters of "{WORDS}", or knows none of them; give the tokenizer that the '
            "model was trained with."
        )
    return loaded


def _load_smollm2(words: str) -> Any:
    from transformers import AutoTokenizer

    gguf = smollm2_file()
    if gguf is None:
        raise UserError(how_to_get(SMOLLM2, "The tokenizer"))
    return AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)


def _load_folder(folder: Path, words: str) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # slow to import for workers

    vocabulary = next(group for group in VOCABULARIES if all((folder / name).is_file() for name in group))
    pieces = _open_sentencepiece(folder / vocabulary[0], words) if vocabulary[0] == "tokenizer.model" else None
    # A class that is named in tokenizer_config.json would rebuild the vocabulary by its own rules: GPT2Tokenizer
    # forgets that SmolLM2 splits digits, LlamaTokenizer how a SentencePiece model normalises.
    kind: Any = PreTrainedTokenizerFast if vocabulary[0] in ("tokenizer.json", "tokenizer.model") else AutoTokenizer
    settings = _read_json(folder / "tokenizer_config.json")
    names = _named_tokens(settings, _read_json(folder / "special_tokens_map.json"), pieces)
    empty = {key for key in NAMED_TOKENS if settings.get(key) is not None and not _content(settings[key])}
    settings = {key: value for key, value in settings.items() if key not in empty} | names
    for key in TOKEN_LISTS:
        if isinstance(settings.get(key), list):
            settings[key] = [token for token in settings[key] if _content(token)]
    settings.pop("auto_map", None)  # the code beside it is never run
    # transformers takes an empty string for a token. So it reads links to the files, beside settings without one.
    with TemporaryDirectory() as cleaned:
        for name in (*vocabulary, *TOKENIZER_SETTINGS, "config.json"):
            if (folder / name).is_file() and name not in REWRITTEN:
                (Path(cleaned) / name).symlink_to((folder / name).resolve())
        (Path(cleaned) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        try:
            if pieces is not None:
                bos = pieces.bos_id() if settings.get("add_bos_token", True) and pieces.bos_id() >= 0 else None
                convert_sentencepiece(folder / vocabulary[0], bos).save(str(Path(cleaned) / "tokenizer.json"))
            loaded = kind.from_pretrained(cleaned, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers raises many kinds, from many depths
            raise UserError(
                f"{words} can't be loaded ({first_line(error):.200}): give a folder with {TOKENIZER.words} and "
                "tokenizer_config.json."
            ) from None
    loaded.name_or_path = str(folder)
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise UserError(f"{words} is a {type(loaded).__name__}, which has no fast form: convert it to tokenizer.json.")
    if pieces is not None and _encode(backend, PROBE).ids != pieces.encode(PROBE):
        raise UserError(
            f"{words} is a SentencePiece model that gives other ids when it is converted: give it as tokenizer.json."
        )
    _name_by_number(loaded, folder)
    return loaded


def _open_sentencepiece(path: Path, words: str) -> "SentencePieceProcessor":
    if not all(importlib.util.find_spec(need) for need in ("sentencepiece", "google.protobuf")):
        raise UserError(
            f"{words} is a SentencePiece model (tokenizer.model), which needs two more packages: pip install "
            "sentencepiece protobuf."
        )
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{words} has a tokenizer.model that is no SentencePiece model ({first_line(error):.120}): give a whole "
            "one, or tokenizer.json."
        ) from None


def _named_tokens(
    config: dict[str, Any], token_map: dict[str, Any], pieces: "SentencePieceProcessor | None"
) -> dict[str, Any]:
    """The special tokens that the two settings files name; else, for BOS, EOS and UNK, those of a SentencePiece model.

    An empty string names no token. Where both files name one, transformers' rule decides.
    """
    files = (config, token_map) if "added_tokens_decoder" in config else (token_map, config)
    named: dict[str, Any] = {}
    if pieces is not None:  # a model without one gets None, and not the default of the tokenizer's class
        numbers = {"bos_token": pieces.bos_id(), "eos_token": pieces.eos_id(), "unk_token": pieces.unk_id()}
        named = {name: pieces.id_to_piece(number) if number >= 0 else None for name, number in numbers.items()}
    for name in NAMED_TOKENS:
        for tokens in files:
            if _content(tokens.get(name)):
                token = tokens[name]
                named[name] = {**token, "__type": "AddedToken"} if isinstance(token, dict) else token
                break
    return named


def _content(token: Any) -> str:
    """The text of a special token, which settings files hold as a string or as a record; empty for none."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _name_by_number(loaded: Any, folder: Path) -> None:
    """Names BOS and EOS, where the tokenizer's own files don't, by their numbers in the model's settings."""
    added = loaded.backend_tokenizer.get_added_tokens_decoder()
    special = {number: token.content for number, token in added.items() if token.special}  # never an ordinary piece
    for name in ("bos_token", "eos_token"):
        for file in ("config.json", "generation_config.json"):
            if getattr(loaded, name) is None:
                numbers = _read_json(folder / file).get(f"{name}_id")
                numbers = numbers if isinstance(numbers, list) else [numbers]
                tokens = [special.get(number) for number in numbers if isinstance(number, int)]
                setattr(loaded, name, next((token for token in tokens if token), None))


def _keeps_text(loaded: Any) -> bool:
    """Whether every letter of `WORDS` is in some token, and not all of them in unknown ones."""
    model = loaded.backend_tokenizer.model
    unknown = {loaded.unk_token_id, getattr(model, "unk_id", None)}
    if getattr(model, "unk_token", None):
        unknown.add(model.token_to_id(model.unk_token))
    encoding = _encode(loaded.backend_tokenizer, WORDS)
    covered = {place for first, end in encoding.offsets for place in range(first, end)}
    return not set(encoding.ids) <= unknown and all(
        place in covered for place, letter in enumerate(WORDS) if not letter.isspace()
    )


def _encode(backend: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    return backend.encode(text, add_special_tokens=False)


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file, an empty one where there is no such file; `UserError` where it can't be read."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({first_line(error):.120}): give a whole file.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no object: give a whole file.")
    return content
